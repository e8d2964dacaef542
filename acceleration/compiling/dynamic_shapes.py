"""Which dimensions of a block's inputs change from prompt to prompt, so that one compiled graph serves them all.

The batch becomes an unbacked symbol of torch.compile: one that is never specialised to 1, so that one sample and many
share a graph. Token counts become ordinary dynamic dimensions. All other sizes stay constants, as fast code wants it.
"""

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..blocks.block_call import BlockCall
from .foreign_code import VOLATILE, block_options

Path = tuple[Any, ...]


class BlockInputs:
    """The inputs of one call.

    `samples` is the number of samples that the `stream` holds in its dimension `batch_dim`; 1 and None where a model
    packs them. `stream_path` leads to it: a position or a name, then keys.
    """

    def __init__(self, call: BlockCall) -> None:
        self.args, self.kwargs = stable_arguments(call)
        self.shared = call.stack.shared
        self.batch_dim = None if call.stack.packed else call.stack.batch_dim
        self.streams = [tensor for _, tensor in _tensors((), list(call.streams().values()))]
        self.stream = self.streams[0]
        self.samples = 1 if self.batch_dim is None else self.stream.shape[self.batch_dim]
        self.tensors: list[tuple[Path, torch.Tensor, int | None]] = []
        ids = {id(tensor) for tensor in self.streams}
        names = call.parameter_names()
        self.stream_path = next(
            path
            for path, tensor in _tensors((), {**dict(enumerate(self.args)), **self.kwargs})
            if tensor is self.stream
        )
        for path, tensor in _tensors((), {**dict(zip(names, self.args, strict=False)), **self.kwargs}):
            own = self.batch_dim if id(tensor) in ids or self.batch_dim is None else 0
            if VOLATILE.isdisjoint(path):  # sigmas have one entry for all samples, or as many
                self.tensors.append((path, tensor, own))

    def batched(self) -> frozenset[Path]:
        """Return the paths of the tensors with one entry for each sample; a good guess if there is one sample."""
        return frozenset(
            path
            for path, tensor, dim in self.tensors
            if dim is not None
            and tensor.ndim > dim
            and tensor.shape[dim] == self.samples
            and (self.samples > 1 or path[0] not in self.shared)
        )

    def mark_dynamic(self, batched: frozenset[Path], any_batch: bool) -> None:
        """Mark the dimensions that change, for a function that is compiled for these `batched` tensors.

        Without `any_batch` one sample and many get a graph each.
        """
        lengths = {
            size for tensor in self.streams for dim, size in enumerate(tensor.shape[:-1]) if dim != self.batch_dim
        }
        lengths |= {math.prod(sizes) for sizes in (tensor.shape[1:-1] for tensor in self.streams) if len(sizes) > 1}
        if len(self.streams) > 1:  # attention over two streams
            lengths.add(sum(tensor.shape[-2] for tensor in self.streams))
        for path, tensor, own in self.tensors:
            _forget_batch_mark(tensor)
            for dim, size in enumerate(tensor.shape[:-1] if tensor.ndim > 1 else tensor.shape):
                if path in batched and dim == own:
                    if any_batch:
                        torch._dynamo.decorators.mark_unbacked(tensor, dim, hint_override=1, shape_id="batch")
                    elif size > 1:
                        torch._dynamo.maybe_mark_dynamic(tensor, dim)
                elif size > 1 and (size in lengths or tensor.ndim == 3):
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)


def stable_arguments(call: BlockCall) -> tuple[tuple, dict[str, Any]]:
    """Return positional and named arguments without what changes in each step and matters to no block."""
    return tuple(_stable(value) for value in call.args), {name: _stable(value) for name, value in call.kwargs.items()}


def can_share_batch_sizes() -> bool:
    """Whether this torch has what one graph for any number of samples needs (2.11 has)."""
    return "shape_id" in inspect.signature(torch._dynamo.decorators.mark_unbacked).parameters


def _forget_batch_mark(tensor: torch.Tensor) -> None:
    """Take off the mark that a tensor still has from the block before."""
    for name in ("_dynamo_unbacked_indices", "_dynamo_shape_ids", "_dynamo_hint_overrides"):
        vars(tensor).pop(name, None)


def _stable(value: Any) -> Any:
    return block_options(value) if isinstance(value, dict) else value


def _tensors(path: Path, value: Any) -> Iterator[tuple[Path, torch.Tensor]]:
    """Yield every tensor in nested containers with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple | list):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value):
        items = vars(value).items()
    else:
        return
    for key, item in items:
        yield from _tensors((*path, key), item)
