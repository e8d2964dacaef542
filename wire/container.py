"""A result file: a packed value and its blobs, one behind the other (docs/protocol.md, "The container")."""

import json
from collections.abc import Container, Iterable
from typing import Any, BinaryIO

from .blob import BlobError, check_blob, is_blob_name

MAX_HEADER = 4 << 20


def write_container(file: BinaryIO, value: Any, blobs: dict[str, bytes], known: Container[str] = ()) -> None:
    """Write the packed `value` and its `blobs` by name, less those that the reader has (`known`)."""
    sent = {name: data for name, data in blobs.items() if name not in known}
    places, end = {}, 0
    for name, data in sent.items():
        places[name] = [end, end + len(data)]
        end += len(data)
    header = json.dumps({"value": value, "blobs": places}, separators=(",", ":")).encode()
    file.write(len(header).to_bytes(8, "little") + header)
    file.writelines(sent.values())


def read_container(data: bytes, known: Iterable[tuple[str, bytes]] = ()) -> tuple[Any, dict[str, bytes]]:
    """Return the packed value and all blobs by name, those in `known` included.

    Raises `BlobError` for a file that is cut off, or whose blobs are not what they are called.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > MAX_HEADER or len(data) < 8 + length:
        raise BlobError("the result is cut off")
    try:
        header = json.loads(data[8 : 8 + length])
        value, places = header["value"], dict(header["blobs"])
        ranges = [(name, int(begin), int(end)) for name, (begin, end) in places.items()]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BlobError(f"the result's header is wrong: {type(error).__name__}") from error
    blobs = dict(known)
    for name, begin, end in ranges:
        if not is_blob_name(name) or not 0 <= begin <= end <= len(data) - 8 - length:
            raise BlobError("the result is cut off, or a blob in it lies outside of it")
        blob = data[8 + length + begin : 8 + length + end]
        check_blob(name, blob)
        blobs[name] = blob
    return value, blobs
