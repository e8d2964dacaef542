"""A blob: one tensor as a safetensors file, named by the sha256 of its bytes. No torch here: an endpoint has none.

The header is held to the one form that `encode_header` writes, so that nothing is left to interpret: one tensor called
`t`, offsets from 0 to the end, no metadata. Format: huggingface/safetensors, "Format".
"""

import hashlib
import json
import math
from dataclasses import dataclass

ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "I32": 4,
    "I64": 8,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
}
MAX_HEADER, MAX_DIMENSIONS = 1024, 8
SHA256_DIGITS = frozenset("0123456789abcdef")


class BlobError(ValueError):
    """The bytes are not a blob; the message says what is wrong with them."""


@dataclass(frozen=True)
class BlobHeader:
    """What a blob says of itself. `start` is where the data begin, `dtype` a safetensors name."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def data_bytes(self) -> int:
        """The size of the data."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def encode_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the bytes before the data; the data begin at a multiple of 8."""
    size = math.prod(shape) * ITEM_BYTES[dtype]
    entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"t": entry}, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(begin: bytes) -> BlobHeader:
    """Return the header at the begin of a blob; `begin` holds at least `8 + MAX_HEADER` bytes of it, or all.

    Raises `BlobError` for anything but the form that `encode_header` writes, before anything is allocated.
    """
    length = int.from_bytes(begin[:8], "little")
    if len(begin) < 8 or length > MAX_HEADER or len(begin) < 8 + length:
        raise BlobError(f"the header is cut off or longer than {MAX_HEADER} bytes")
    text = begin[8 : 8 + length]
    try:
        entry = json.loads(text)["t"]
        dtype, shape = entry["dtype"], tuple(entry["shape"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BlobError(f"the header is not that of one tensor called 't': {type(error).__name__}") from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise BlobError(f"the dtype {str(dtype)[:40]!r} is none of {', '.join(ITEM_BYTES)}")
    check_shape(shape)
    if begin[: 8 + length] != encode_header(dtype, shape):
        raise BlobError("the header is not in canonical form")
    return BlobHeader(dtype, shape, 8 + length)


def check_shape(shape: object) -> None:
    """Raise `BlobError` unless `shape` is a sequence of a few non-negative 48-bit integers."""
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMENSIONS:
        raise BlobError(f"a shape has at most {MAX_DIMENSIONS} dimensions")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise BlobError("a shape holds sizes from 0 up")
    if 0 in shape and math.prod(size or 1 for size in shape) >= 1 << 48:  # torch multiplies the others, too
        raise BlobError("an empty shape whose other sizes are 2^48 places or more")


def check_blob(name: str, data: bytes) -> BlobHeader:
    """Return the header of the blob `data` after checking its size and that it hashes to `name`.

    Raises `BlobError`.
    """
    header = read_header(data[: 8 + MAX_HEADER])
    if len(data) - header.start != header.data_bytes:
        raise BlobError(f"{len(data) - header.start} bytes of data, and the header says {header.data_bytes}")
    if blob_name(data) != name:
        raise BlobError("the bytes do not hash to the name they were sent under")
    return header


def blob_name(data: bytes) -> str:
    """Return the name of the blob with these bytes: 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def is_blob_name(name: object) -> bool:
    """Whether `name` is 64 hexadecimal digits, lower case."""
    return isinstance(name, str) and len(name) == 64 and SHA256_DIGITS.issuperset(name)
