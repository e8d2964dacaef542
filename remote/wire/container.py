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
        value, places = header["value"], [(name, *place) for name, place in header["blobs"].items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BlobError(f"the result's header is wrong: {type(error).__name__}") from error
    blobs, start, at = dict(known), 8 + length, 0
    for name, *place in places:
        # One behind the other without gaps: blobs that overlap could fill any memory.
        if not is_blob_name(name) or len(place) != 2 or place[0] != at or type(place[1]) is not int:
            raise BlobError("the result's blobs do not follow each other")
        end = place[1]
        if not at <= end <= len(data) - start:
            raise BlobError("the result is cut off, or a blob in it lies outside of it")
        blobs[name] = data[start + at : start + end]
        check_blob(name, blobs[name])
        at = end
    if at != len(data) - start:
        raise BlobError(f"{len(data) - start - at} bytes behind the result's last blob belong to nothing")
    return value, blobs
