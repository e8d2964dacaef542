"""Lets a technique see each block call of a diffusion transformer without copying the model's forward.

`visit_blocks` replaces the model's block lists (`architectures.py` says where they are) by lists of thin slots for the
length of a `with` statement. The model's own forward runs untouched, so core updates, ControlNets, block replacements
and other packs keep working. Invariants: whatever happens inside, the model's own lists are back afterwards; a visitor
that only runs each call gets bit-identical results.

Blocks may add to their inputs in place (Flux, LTX), so clone a stream before `run` to compare it with the output.
Open it in an APPLY_MODEL wrapper: eleven models of ComfyUI 0.30.0 (Stable Diffusion 3, Mochi, PixArt, Hunyuan-DiT,
Hunyuan3D 2.1, OmniGen2, Boogu, ERNIE-Image, SeedVR2, ACE-Step 1.5, Stable Audio) never call DIFFUSION_MODEL wrappers.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .abandoned_forward import release
from .architectures import ARCHITECTURES, EXCEPTIONS, UNETS, Architecture, Stack, class_paths
from .block_call import BlockCall, Place, Slot, UnsupportedModelError, Visit, map_tensors
from .unet_blocks import is_unet

__all__ = [
    "BlockCall",
    "UnsupportedModelError",
    "architecture_of",
    "map_tensors",
    "require_visits",
    "stacks_of",
    "visit_blocks",
]


def architecture_of(diffusion_model: nn.Module) -> Architecture:
    """Return the row of the table for the model's own class.

    Raises `UnsupportedModelError` for a class that is not in the table, or that must not be in it. What derives from a
    known class counts as unknown: it may call its blocks in another way, and a cache would be wrong or never skip.
    """
    rows = {path: row for row in ARCHITECTURES for path in row.classes}
    own, *bases = class_paths(diffusion_model)
    if own in rows:
        return rows[own]
    reason = next((EXCEPTIONS[path] for path in (own, *bases) if path in EXCEPTIONS), None)
    if reason:
        raise UnsupportedModelError(f"the blocks of {own} can't be skipped: {reason}")
    base = next((path for path in bases if path in rows or path in UNETS), None)
    derived = f": it derives from {base}, but may call its blocks in another way" if base else ""
    raise UnsupportedModelError(
        f"the blocks of {own} are not known to Velocity{derived}; use Velocity Forecast instead, which needs no blocks"
    )


def stacks_of(diffusion_model: nn.Module) -> tuple[Stack, ...]:
    """Return where the blocks of a model are: its row of the table, or the transformer blocks of a UNet.

    Raises `UnsupportedModelError` for a model that is not in the table.
    """
    if not is_unet(diffusion_model):
        return architecture_of(diffusion_model).stacks
    names = (name for name, _ in diffusion_model.named_modules() if name.endswith(".transformer_blocks"))
    return tuple(Stack(name, ("x",)) for name in names)


def require_visits(diffusion_model: nn.Module, visits: int) -> None:
    """Raise `UnsupportedModelError` when a run's first whole forward made no visit: the technique would do nothing.

    Not for a later forward alone: another pack's step cache may answer it without a block.
    """
    if not visits:
        raise UnsupportedModelError(
            f"{type(diffusion_model).__name__} ran without calling its blocks as it should: this ComfyUI or another "
            "pack changed it. Use Velocity Forecast for this model, and report this message"
        )


@contextmanager
def visit_blocks(diffusion_model: nn.Module, visit: Visit, stacks: tuple[Stack, ...] | None = None) -> Iterator[None]:
    """While open, each block call goes to `visit`, and what that returns is the block's output.

    `stacks` are those of `stacks_of`, for a caller that asks often: a UNet is searched for them.

    Stacks are counted without empty ones (HunyuanVideo 1.5 has no single blocks). `visit` may raise to stop the
    forward; whatever ends it, what core holds for it is freed. Not for two threads on one model object at a time.
    Raises `UnsupportedModelError` for a model that is not in the table or that lacks a list the table names.
    """
    restore: list[tuple[nn.Module, str, nn.Module]] = []
    slots: list[tuple[nn.Module, str, nn.Module]] = []
    for stack in stacks_of(diffusion_model) if stacks is None else stacks:
        parent, name = _locate(diffusion_model, stack.attribute)
        blocks = getattr(parent, name)
        if len(blocks):
            slots.append((parent, name, _slots(blocks, stack, len(restore), visit)))
            restore.append((parent, name, blocks))
    try:
        for parent, name, value in slots:
            setattr(parent, name, value)
        yield
    except BaseException:
        release([slot for _, _, value in slots for slot in value.children()])
        raise
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

    def slot(index: int, block: nn.Module) -> Slot:
        return Slot(block, Place(stack, stack_index, index, len(blocks)), visit)

    if isinstance(blocks, nn.ModuleDict):
        return nn.ModuleDict({key: slot(index, block) for index, (key, block) in enumerate(blocks.items())})
    return nn.ModuleList(slot(index, block) for index, block in enumerate(blocks))
