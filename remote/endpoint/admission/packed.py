"""Checks packed values (wire/values.py has their grammar) without making them, and without torch.

What a worker will allocate for them is known from the declared shapes alone, so this is where it is limited.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...wire.blob import ITEM_BYTES, BlobError, BlobHeader, check_shape, is_blob_name
from ...wire.grammar import CLIP_VISION_FIELDS, DTYPES, MAX_DEPTH, SMALLER, laid_out
from ..settings import Limits
from .refusal import Refusal, bad_request, quoted, too_large


@dataclass(frozen=True)
class Tensor:
    """A tensor as a manifest declares it: `blob` is None for a fill, `dtype` a safetensors name, `in_memory` its shape
    as it lies there."""

    blob: str | None
    dtype: str
    shape: tuple[int, ...]
    in_memory: tuple[int, ...]
    rows: int | None

    @property
    def bytes(self) -> int:
        """The size of the tensor once it is made."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def tensors_of(cuts: Iterable[Any], limits: Limits) -> list[Tensor]:
    """Return all tensors of the packed values in `cuts`. Raises `Refusal` for what is malformed or too large."""
    found: list[Tensor] = []
    total = 0
    for tensor in _walk(list(cuts), 0, limits):
        if tensor.bytes > limits.blob_bytes:
            raise too_large(f"a tensor has {tensor.bytes} bytes, and {limits.blob_bytes} are allowed", "blob_bytes")
        total += tensor.bytes
        if total > limits.total_bytes:
            raise too_large(f"the job's tensors have more than {limits.total_bytes} bytes", "total_bytes")
        found.append(tensor)
        if len(found) > limits.tensors:
            raise too_large(f"the job has more than {limits.tensors} tensors", "tensors")
    return found


def check_header(tensor: Tensor, header: BlobHeader) -> None:
    """Raise `Refusal` (`bad_blob`) unless the blob that has arrived is what the manifest declares it to be."""
    if header.dtype != tensor.dtype and header.dtype not in SMALLER.get(tensor.dtype, ()):
        problem = f"it holds {header.dtype}, which {tensor.dtype} does not travel as"
    elif header.shape != _sent_shape(tensor):
        problem = f"its shape is {list(header.shape)}, and {list(_sent_shape(tensor))} was declared"
    else:
        return
    raise Refusal("bad_blob", f"the blob {tensor.blob} does not fit its place: {problem}", "send the job anew")


def _sent_shape(tensor: Tensor) -> tuple[int, ...]:
    shape = tensor.in_memory
    return shape if tensor.rows is None else (shape[0], tensor.rows, shape[2])


def _walk(value: Any, depth: int, limits: Limits) -> Iterator[Tensor]:
    if depth > MAX_DEPTH + 2:  # the list of cuts and each cut's list of items come on top
        raise bad_request(f"a value is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        check_text(value, limits)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, depth + 1, limits)
    elif isinstance(value, dict):
        yield from _walk_dict(value, depth, limits)


def _walk_dict(value: dict, depth: int, limits: Limits) -> Iterator[Tensor]:
    marks = [key for key in value if key.startswith("@")]
    if not marks:
        for key, item in value.items():
            check_text(key, limits)
            yield from _walk(item, depth + 1, limits)
    elif "@tensor" in value or "@fill" in value:
        yield _tensor(value)
    elif len(value) == 1 and "@tuple" in value and isinstance(value["@tuple"], list):
        yield from _walk(value["@tuple"], depth, limits)
    elif len(value) == 1 and "@nested" in value and isinstance(value["@nested"], list):
        for item in value["@nested"]:
            if not isinstance(item, dict):
                raise bad_request("'@nested' holds tensors only")
            yield _tensor(item)
    elif len(value) == 1 and "@clip_vision" in value and isinstance(value["@clip_vision"], dict):
        if not set(value["@clip_vision"]) <= set(CLIP_VISION_FIELDS):
            raise bad_request("'@clip_vision' has a field that is not known")
        yield from _walk(value["@clip_vision"], depth, limits)
    else:
        raise bad_request(f"{quoted(marks[0])} is no mark of a packed value, or not of its form")


def _tensor(entry: dict) -> Tensor:
    fill = "@fill" in entry
    fields = {"@fill" if fill else "@tensor", "dtype", "shape"}
    if not fields <= set(entry) <= fields | {"order", "repeated"} | (set() if fill else {"rows"}):
        raise bad_request(
            "a tensor's fields are '@tensor' or '@fill', 'dtype', 'shape' and perhaps 'order', 'repeated' and 'rows'"
        )
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise bad_request(f"the dtype {quoted(entry['dtype'])} is none of {', '.join(DTYPES)}")
    try:
        check_shape(entry["shape"])
    except BlobError as error:
        raise bad_request(str(error)) from error
    shape, rows = laid_out(entry), entry.get("rows")
    if shape is None:
        raise bad_request("an 'order' names each dimension of 'shape' once, and 'repeated' some of them")
    if fill and not _is_finite_number(entry["@fill"]):
        raise bad_request("a '@fill' is one finite number of at most 64 bits")
    if not fill and not is_blob_name(entry["@tensor"]):
        raise bad_request("a blob's name is 64 hexadecimal digits")
    if "rows" in entry and not (type(rows) is int and len(shape) == 3 and 0 <= rows <= shape[1]):
        raise bad_request("'rows' needs a shape of three dimensions and is at most its second")
    blob = None if fill else entry["@tensor"]
    return Tensor(blob, DTYPES[entry["dtype"]], tuple(entry["shape"]), tuple(shape), rows)


def _is_finite_number(value: Any) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return type(value) in (bool, int) and -(1 << 63) <= value < 1 << 64


def check_text(text: str, limits: Limits) -> None:
    """Raise `Refusal` for text that is too long or that no text is: NUL, half of a surrogate pair."""
    if len(text) > limits.string:
        raise too_large(f"a text has {len(text)} characters, and {limits.string} are allowed", "string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise bad_request("a text holds half of a surrogate pair") from error
    if "\0" in text:
        raise bad_request("a text holds a NUL")
