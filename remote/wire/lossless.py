"""Making a tensor smaller without losing a bit: one value instead of many, no trailing zero rows, a smaller dtype."""

import math
from dataclasses import dataclass

import torch

from . import grammar
from .blob import BlobError

DTYPES = {name: getattr(torch, name) for name in grammar.DTYPES}
SAFETENSORS_NAMES = {DTYPES[name]: code for name, code in grammar.DTYPES.items()}
_BY_CODE = {code: dtype for dtype, code in SAFETENSORS_NAMES.items()}
SMALLER = {_BY_CODE[code]: tuple(map(_BY_CODE.get, smaller)) for code, smaller in grammar.SMALLER.items()}


@dataclass(frozen=True)
class Shrunk:
    """`fill` if all elements are this one; else `data`, and `rows` if rows of zeros behind them were left out."""

    data: torch.Tensor | None
    fill: float | int | bool | None
    rows: int | None


def shrink(tensor: torch.Tensor) -> Shrunk:
    """Return what is needed to make `tensor` again, bit for bit, with `data` contiguous on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.numel() and _same_everywhere(tensor):
        return Shrunk(None, tensor.reshape(-1)[0].item(), None)
    rows = None
    if (
        tensor.ndim == 3 and tensor.numel()
    ):  # [batch, tokens, width]: text encoders with a mask leave zeros behind the prompt
        live = _bits(tensor).any(dim=2).any(dim=0).nonzero()
        length = int(live[-1]) + 1
        if length < tensor.shape[1]:
            rows, tensor = length, tensor[:, :length].contiguous()
    for dtype in SMALLER.get(tensor.dtype, ()):
        smaller = tensor.to(dtype)
        if torch.equal(_bits(smaller.to(tensor.dtype)), _bits(tensor)):
            return Shrunk(smaller, None, rows)
    return Shrunk(tensor, None, rows)


def restore(shrunk: Shrunk, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    """Return the tensor of this dtype and shape that was shrunk. Raises `BlobError` where they do not fit together."""
    if shrunk.data is None:
        if not _fits(shrunk.fill, dtype):
            raise BlobError(f"a fill is one finite number that {dtype} can hold")
        return torch.full(shape, shrunk.fill, dtype=dtype)
    if shrunk.data.dtype != dtype and shrunk.data.dtype not in SMALLER.get(dtype, ()):
        raise BlobError(f"the blob holds {shrunk.data.dtype}, which {dtype} does not travel as")
    data = shrunk.data.to(dtype)
    if shrunk.rows is not None:
        if len(shape) != 3 or type(shrunk.rows) is not int or not 0 <= shrunk.rows <= shape[1]:
            raise BlobError("left out rows need three dimensions and a length")
        if list(data.shape) != [shape[0], shrunk.rows, shape[2]]:
            raise BlobError("the blob's shape is not the one of the rows that were kept")
        rest = torch.zeros(shape[0], shape[1] - shrunk.rows, shape[2], dtype=dtype)
        data = torch.cat([data, rest], dim=1)
    if list(data.shape) != list(shape):
        raise BlobError(f"the blob's shape is {list(data.shape)}, and {list(shape)} was announced")
    return data


def _fits(fill: object, dtype: torch.dtype) -> bool:
    if type(fill) not in (bool, int, float) or not -math.inf < fill < math.inf:
        return False
    try:
        return torch.tensor(fill, dtype=dtype).item() == fill
    except (RuntimeError, ValueError, OverflowError):  # out of range, in torch's several ways
        return False


def _same_everywhere(tensor: torch.Tensor) -> bool:
    bits = _bits(tensor).reshape(tensor.numel(), -1)
    return bool((bits == bits[0]).all())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's bits as integers of the same width, so that -0.0 and 0.0 differ."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.element_size()])
