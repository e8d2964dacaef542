"""Lets a technique see each block call of a diffusion transformer without copying the model's forward.

`visit_blocks` replaces the model's block lists (`architectures.py` says where they are) by lists of thin slots for the
length of a `with` statement. The model's own forward runs untouched, so core updates, ControlNets, block replacements
and other packs keep working. Invariants: whatever happens inside, the model's own lists are back afterwards; a visitor
that only runs each call gets bit-identical results.

Blocks may add to their inputs in place (Flux, LTX), so clone a stream before `run` to compare it with the output.
Open it in an APPLY_MODEL wrapper: eleven models of ComfyUI 0.30.0 (Stable Diffusion 3, Mochi, PixArt, Hunyuan-DiT,
Hunyuan3D 2.1, OmniGen2, Boogu, ERNIE-Image, SeedVR2, ACE-Step 1.5, Stable Audio) never call DIFFUSION_MODEL wrappers.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from .architectures import ARCHITECTURES, Architecture, Stack


class UnsupportedModelError(ValueError):
    """The model's blocks cannot be visited; the message names the class and what to use instead."""


def architecture_of(diffusion_model: nn.Module) -> Architecture:
    """Return the row of the table for this model, looking through its base classes, most derived first.

    Raises `UnsupportedModelError` for a class that is not in the table.
    """
    by_class = {row.model_class: row for row in ARCHITECTURES}
    for cls in type(diffusion_model).__mro__:
        row = by_class.get(f"{cls.__module__}.{cls.__qualname__}")
        if row is not None:
            return row
    cls = type(diffusion_model)
    raise UnsupportedModelError(
        f"the blocks of {cls.__module__}.{cls.__qualname__} are not known to Velocity; "
        "use Velocity Forecast instead, which works on every model"
    )


@dataclass(frozen=True)
class Place:
    """Where a block stands: the `index`-th of the `count` blocks in the `stack_index`-th stack of the model."""

    stack: Stack
    stack_index: int
    index: int
    count: int


class BlockCall:
    """One call of one block. `stack`, `stack_index`, `index` and `count` are those of its `Place`."""

    def __init__(self, block: nn.Module, place: Place, args: tuple, kwargs: dict[str, Any]):
        self.block = block
        self.stack, self.stack_index = place.stack, place.stack_index
        self.index, self.count = place.index, place.count
        self._args, self._kwargs = args, kwargs

    def run(self, block: Callable[..., Any] | None = None) -> Any:
        """Call the block, or `block` in its place (a compiled one), with its own arguments; return what it returns."""
        return (block or self.block)(*self._args, **self._kwargs)

    def streams(self) -> dict[str, Any]:
        """Return the streams that enter the block: a tensor, a nested tuple or list of tensors, or None each.

        They are the tensors themselves, not copies. Raises `UnsupportedModelError` when the block takes no such input.
        """
        values, variadic = _bind(inspect.signature(_innermost(self.block).forward), self._args, self._kwargs)
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


def _innermost(block: nn.Module) -> nn.Module:
    """Return the real block, whose signature a slot of another technique or `torch.compile` around it hides."""
    while True:
        if type(block) is _Slot:
            block = block.block
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


Visit = Callable[[BlockCall], Any]


class _Slot(nn.Module):
    """Stands in for one block: hands each call to the visitor, and everything else to the block."""

    def __init__(self, block: nn.Module, place: Place, visit: Visit):
        super().__init__()
        self.block, self.place, self.visit = block, place, visit

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.visit(BlockCall(self.block, self.place, args, kwargs))

    @property
    def __class__(self) -> type:
        """The block's class, so that isinstance() answers as it would for the block."""
        return type(self._modules["block"])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


@contextmanager
def visit_blocks(diffusion_model: nn.Module, visit: Visit) -> Iterator[None]:
    """While open, each block call goes to `visit`, and what that returns is the block's output.

    Stacks are counted without empty ones (HunyuanVideo 1.5 has no single blocks). `visit` may raise to stop the
    forward. Not for two threads on one model object at a time. Raises `UnsupportedModelError` for a model that is not
    in the table or that lacks a list the table names.
    """
    restore: list[tuple[nn.Module, str, nn.Module]] = []
    slots: list[tuple[nn.Module, str, nn.Module]] = []
    for stack in architecture_of(diffusion_model).stacks:
        parent, name = _locate(diffusion_model, stack.attribute)
        blocks = getattr(parent, name)
        if len(blocks):
            slots.append((parent, name, _slots(blocks, stack, len(restore), visit)))
            restore.append((parent, name, blocks))
    try:
        for parent, name, value in slots:
            setattr(parent, name, value)
        yield
    finally:
        for parent, name, value in restore:
            setattr(parent, name, value)


def _locate(diffusion_model: nn.Module, attribute: str) -> tuple[nn.Module, str]:
    """Return the module that owns the block list and the list's name in it."""
    path, _, name = attribute.rpartition(".")
    try:
        parent = diffusion_model.get_submodule(path)
        if isinstance(getattr(parent, name), nn.ModuleList | nn.ModuleDict):
            return parent, name
    except AttributeError:
        pass
    raise UnsupportedModelError(
        f"{type(diffusion_model).__name__} has no list of blocks at {attribute!r}: this ComfyUI or another pack "
        "changed it. Use Velocity Forecast for this model, and report this message"
    )


def _slots(blocks: nn.Module, stack: Stack, stack_index: int, visit: Visit) -> nn.ModuleList | nn.ModuleDict:
    """Return a container like `blocks` with a slot for each block."""

    def slot(index: int, block: nn.Module) -> _Slot:
        return _Slot(block, Place(stack, stack_index, index, len(blocks)), visit)

    if isinstance(blocks, nn.ModuleDict):
        return nn.ModuleDict({key: slot(index, block) for index, (key, block) in enumerate(blocks.items())})
    return nn.ModuleList(slot(index, block) for index, block in enumerate(blocks))
