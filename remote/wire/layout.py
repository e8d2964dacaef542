"""How a tensor lies in memory: kernels and copies go by it, and another layout gives other last bits.

Pictures often come with their channels moved (`movedim`) or repeated (`expand`); made contiguous, the same numbers
would be convolved in another way there than here.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .blob import BlobError
from .grammar import laid_out


@dataclass(frozen=True)
class Layout:
    """`order` has the dimensions from the outermost in memory to the innermost, None if they lie in their own order;
    of those in `repeated` there is one item in memory, and more to be seen."""

    order: list[int] | None
    repeated: list[int]

    def fields(self) -> dict[str, list[int]]:
        """Return what an entry says of it."""
        return {name: value for name, value in vars(self).items() if value}


def take_out(tensor: torch.Tensor) -> tuple[torch.Tensor, Layout]:
    """Return what is in memory of a tensor, with its dimensions as they lie there, and the layout."""
    repeated = [i for i in range(tensor.ndim) if tensor.stride(i) == 0 and tensor.shape[i] > 1]
    for dimension in repeated:
        tensor = tensor.narrow(dimension, 0, 1)
    order = sorted(range(tensor.ndim), key=lambda i: (-tensor.stride(i), -tensor.shape[i]))
    if order == list(range(tensor.ndim)):
        return tensor, Layout(None, repeated)
    return tensor.permute(order), Layout(order, repeated)


def read_layout(entry: dict[str, Any]) -> tuple[Layout, list[int]]:
    """Return the layout that an entry names, and the shape of what is in memory. Raises `BlobError`."""
    shape = laid_out(entry)
    if shape is None:
        raise BlobError("an order names each dimension once, and repeated are some of them")
    return Layout(entry.get("order"), entry.get("repeated", [])), shape


def put_back(data: torch.Tensor, layout: Layout, shape: list[int]) -> torch.Tensor:
    """Return the tensor of this shape whose memory is `data`."""
    if layout.order is not None:
        data = data.permute([layout.order.index(i) for i in range(data.ndim)])
    return data.expand(shape) if layout.repeated else data
