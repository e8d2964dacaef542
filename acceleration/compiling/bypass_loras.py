"""Bypass LoRAs (LoraLoaderBypass) in compiled blocks: their strength is an input of the graph, so any fits one graph.

Core replaces the forward of a layer by a method of a hook, whose adapter holds the LoRA's weights and, as a Python
number, its strength. torch.compile makes a constant of the number, inductor even where it is told not to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def strengths_as_tensors(block: nn.Module) -> Iterator[None]:
    """While open, the strengths of the block's bypass LoRAs are tensors of the same value."""
    forwards = [vars(module).get("forward") for module in block.modules()]
    strengths = [(adapter, adapter.multiplier) for adapter in map(bypass_adapter, forwards) if adapter is not None]
    try:
        for adapter, strength in strengths:
            # On the CPU and without dimensions torch takes it for a number, on every device and in every precision.
            adapter.multiplier = torch.tensor(strength, dtype=torch.float64, device="cpu")
        yield
    finally:
        for adapter, strength in strengths:
            adapter.multiplier = strength


def bypass_adapter(forward: Any) -> Any | None:
    """Return the adapter of the LoRA that replaced a layer's forward; None where that is something else."""
    adapter = getattr(getattr(forward, "__self__", None), "adapter", None)
    return adapter if isinstance(getattr(adapter, "multiplier", None), float | int) else None


def bypass_form(forward: Any) -> tuple:
    """Return what two bypass LoRAs of a layer must have in common to share a graph; () for another forward."""
    adapter = bypass_adapter(forward)
    if adapter is None:
        return ()
    weights = getattr(adapter, "weights", None) or ()
    return type(adapter), *(tuple(item.shape) if isinstance(item, torch.Tensor) else str(item) for item in weights)
