"""The first-block probe for UNets (Stable Diffusion 1.5, SDXL), which have no single list of equal blocks.

It uses core's public UNet patches: the first convolution (input block 0) makes the stream, input block 1 is the first
real block. What that block adds is measured where `block_stack.py` measures a transformer's first block.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .architectures import UNETS, class_paths

Patch = Callable[[torch.Tensor, dict[str, Any]], torch.Tensor]


def is_unet(diffusion_model: nn.Module) -> bool:
    """Whether the model is a UNet of core whose first block these patches can see (by its own class)."""
    return class_paths(diffusion_model)[0] in UNETS


def watch_first_block(
    transformer_options: dict[str, Any], on_residual: Callable[[torch.Tensor], None]
) -> dict[str, Any]:
    """Return a copy of `transformer_options` with which one forward reports what its first block adds.

    `on_residual` gets a (batch, channels, height, width) tensor in float32 and may raise to stop the forward. The
    patches of others stay in place and in order; their lists are not modified. Make a new copy for each forward.
    """
    entry, leave = first_block_patches(on_residual)
    patches = dict(transformer_options.get("patches", {}))
    # What enters block 1 is the stream behind everyone's patches; what leaves it is measured before them, as a patch
    # there may change its size (Kohya Deep Shrink).
    patches["input_block_patch_after_skip"] = [*patches.get("input_block_patch_after_skip", []), entry]
    patches["input_block_patch"] = [leave, *patches.get("input_block_patch", [])]
    return {**transformer_options, "patches": patches}


def first_block_patches(on_residual: Callable[[torch.Tensor], None]) -> tuple[Patch, Patch]:
    """Return the patches behind input block 0 ("input_block_patch_after_skip") and at 1 ("input_block_patch")."""
    before: list[torch.Tensor] = []

    def entry(h: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        if options["block"] == ("input", 0):
            before.append(h.to(torch.float32, copy=True))
        return h

    def leave(h: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        if options["block"] == ("input", 1):
            on_residual(h.to(torch.float32) - before.pop())
        return h

    return entry, leave
