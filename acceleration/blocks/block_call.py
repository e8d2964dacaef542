"""One call of one block, as a visitor of the block stack sees it, and the slot that reports it (`block_stack.py`)."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .architectures import Stack


class UnsupportedModelError(ValueError):
    """The model's blocks cannot be visited; the message names the class and what to use instead."""


@dataclass(frozen=True)
class Place:
    """Where a block stands: the `index`-th of the `count` blocks in the `stack_index`-th stack of the model."""

    stack: Stack
    stack_index: int
    index: int
    count: int


class BlockCall:
    """One call of one block. `stack`, `stack_index`, `index` and `count` are those of its `Place`.

    `args` and `kwargs` are what the model called the block with.
    """

    def __init__(self, block: nn.Module, place: Place, args: tuple, kwargs: dict[str, Any]):
        self.block = block
        self.stack, self.stack_index = place.stack, place.stack_index
        self.index, self.count = place.index, place.count
        self.args, self.kwargs = args, kwargs

    def run(self, block: Callable[..., Any] | None = None) -> Any:
        """Call the block, or `block` in its place (a compiled one), with its own arguments; return what it returns."""
        return (block or self.block)(*self.args, **self.kwargs)

    def streams(self) -> dict[str, Any]:
        """Return the streams that enter the block: a tensor, a nested tuple or list of tensors, or None each.

        They are the tensors themselves, not copies. Raises `UnsupportedModelError` when the block takes no such input.
        """
        values, variadic = _bind(inspect.signature(_innermost(self.block).forward), self.args, self.kwargs)
        names = self.stack.carried
        if variadic and names[0] not in values:  # forward(*args): inputs come in the order of the outputs
            values.update(zip(names, variadic, strict=False))
        missing = [name for name in names if name not in values]
        if missing:
            raise UnsupportedModelError(
                f"{type(self.block).__name__} takes no {', '.join(missing)}: this ComfyUI or another pack changed it. "
                "Use Velocity Forecast for this model, and report this message"
            )
        return {name: values[name] for name in names}

    def parameter_names(self) -> list[str]:
        """Return the names of the block's parameters, in the order in which positional arguments fill them."""
        return list(inspect.signature(_innermost(self.block).forward).parameters)

    def unpack(self, output: Any) -> dict[str, Any]:
        """Return the streams that leave the block, by name, from what the block returned."""
        if len(self.stack.streams) == 1:
            return {self.stack.streams[0]: output}
        return {name: value for name, value in zip(self.stack.streams, output, strict=True) if name}

    def pack(self, streams: Mapping[str, Any]) -> Any:
        """Return what the block would have returned, had it produced these streams."""
        if len(self.stack.streams) == 1:
            return streams[self.stack.streams[0]]
        return tuple(streams[name] if name else None for name in self.stack.streams)


Visit = Callable[[BlockCall], Any]


# What core would replay in a block's place (a recorded graph), past the visitor, and what it needs to record one.
_OWN_OF_THE_BLOCK = frozenset({"_comfy_graph", "_v_block"})


class Slot(nn.Module):
    """Stands in for one block: hands each call to the visitor, and everything else to the block."""

    def __init__(self, block: nn.Module, place: Place, visit: Visit):
        super().__init__()
        # Long names: a block may have a `block` or `visit` of its own (HiDream-I1 does).
        self.velocity_block, self.velocity_place, self.velocity_visit = block, place, visit

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Let the visitor answer the call."""
        return self.velocity_visit(BlockCall(self.velocity_block, self.velocity_place, args, kwargs))

    @property
    def __class__(self) -> type:
        """The block's class, so that isinstance() answers as it would for the block."""
        return type(self._modules["velocity_block"])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _OWN_OF_THE_BLOCK:
                raise
            return getattr(super().__getattr__("velocity_block"), name)


def map_tensors(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Apply `function` to each tensor in nested dicts, tuples and lists, beside its counterparts in `others`.

    The result has the nesting of `first`. Where one of the counterparts is None (some last blocks return no text) the
    result is None. For example `map_tensors(torch.sub, after, before)` or `map_tensors(torch.clone, streams)`.
    """
    trees = (first, *others)
    if any(tree is None for tree in trees):
        return None
    if isinstance(first, Mapping):
        return {key: map_tensors(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(map_tensors(function, *items) for items in zip(*trees, strict=True))
    return function(*trees)


def _innermost(block: nn.Module) -> nn.Module:
    """Return the real block, whose signature a slot of another technique or `torch.compile` around it hides."""
    while True:
        if type(block) is Slot:
            block = block.velocity_block
        elif "_orig_mod" in block._modules:
            block = block._modules["_orig_mod"]
        else:
            return block


def _bind(signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]) -> tuple[dict[str, Any], tuple]:
    """Return the arguments by name, defaults included, and those that went into a `*args` parameter."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    values: dict[str, Any] = {}
    variadic: tuple = ()
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            variadic = value
        elif kind is inspect.Parameter.VAR_KEYWORD:
            values.update(value)
        else:
            values[name] = value
    return values, variadic
