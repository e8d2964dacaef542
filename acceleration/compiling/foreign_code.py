"""Code of other nodes that runs inside a block, and what is left of the options where none does.

Patches, replacements and attention overrides come with transformer_options; bypass LoRAs and some packs replace the
forward of a layer. torch.compile guards on every Python value that such code reads.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from ..blocks.block_call import BlockCall

# Names in transformer_options["patches"] that core's models call between their blocks. A block may call any other:
# attn1_patch, attn1_output_patch, attn2_patch, attn2_output_patch, middle_patch, mlp_patch as of ComfyUI 0.30.0.
BETWEEN_BLOCKS = frozenset(
    {"input_block_patch", "input_block_patch_after_skip", "middle_block_after_patch", "output_block_patch"}
    | {"emb_patch", "forward_timestep_embed_patch", "post_input", "double_block", "single_block", "noise_refiner"}
)
ATTENTION = ("attn1", "attn2")  # in "patches_replace": replaced inside the block, at one place each
OVERRIDE = "optimized_attention_override"
# Entries of transformer_options that are new in each step, run or block and that core's blocks only hand to such code.
VOLATILE = frozenset(
    {"uuids", "cond_or_uncond", "sigmas", "sample_sigmas", "wrappers", "callbacks", "multigpu_thread_device"}
    | {"block", "block_index", "block_type", "total_blocks", "transformer_index", "activations_shape", "original_shape"}
    | {"img_slice", "reference_image_num_tokens"}
)

Identity = tuple[Any, ...]


def block_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the transformer_options that a block needs: all that the foreign code inside it may read, if there is any.

    Without it also what changes in each step and matters to no block is left out.
    """
    inside = _inside(options)
    dropped = {"patches", "patches_replace", OVERRIDE, *(() if inside else VOLATILE)}
    return {**{name: value for name, value in options.items() if name not in dropped}, **inside}


def patches_inside(call: BlockCall) -> Identity:
    """Return which patches run inside this call, whatever their numbers; () for none."""
    options = next((value for value in (*call.kwargs.values(), *call.args) if _is_options(value)), None)
    if options is None:
        return ()
    inside = _inside(options)
    return tuple((name, _identity(inside[name])) for name in sorted(inside))


def replaced_forwards(block: nn.Module) -> Identity:
    """Return which layers of the block have another forward than their class, whatever its numbers; () for none."""
    replaced = []
    for name, module in block.named_modules():
        forward = vars(module).get("forward")
        if forward == type(module).forward.__get__(module):  # what a bypass LoRA leaves behind
            del module.forward
        elif forward is not None:
            replaced.append((name, _identity(forward)))
    return tuple(replaced)


def _is_options(value: Any) -> bool:
    return isinstance(value, dict) and any(value.get(name) for name in ("patches", "patches_replace", OVERRIDE))


def _inside(options: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of the options with code that runs inside this block."""
    patches = {name: found for name, found in (options.get("patches") or {}).items() if name not in BETWEEN_BLOCKS}
    places, replaced = _places(options), {}
    for name, found in (options.get("patches_replace") or {}).items():
        if name != "dit":  # the model itself calls these, around the block
            replaced[name] = {key: found[key] for key in found if name not in ATTENTION or key in places}
    entries = {"patches": patches, "patches_replace": replaced}
    inside = {name: {key: value for key, value in entry.items() if value} for name, entry in entries.items()}
    inside[OVERRIDE] = options.get(OVERRIDE)
    return {name: value for name, value in inside.items() if value}


def _places(options: dict[str, Any]) -> tuple:
    """Return the keys under which core's transformer block looks for a replacement of its attention."""
    block = options.get("block")
    return () if block is None else ((block[0], block[1], options.get("block_index", 0)), block)


def _identity(code: Any) -> Any:
    """Return what two callables share that differ in their numbers and places only, also within lists and dicts."""
    if isinstance(code, dict):
        return tuple((key if isinstance(key, str) else "", _identity(value)) for key, value in code.items())
    if isinstance(code, list | tuple):
        return tuple(_identity(value) for value in code)
    if isinstance(code, functools.partial):
        return _identity(code.func)
    function: Callable = getattr(code, "__func__", code)
    return getattr(function, "__code__", type(code))
