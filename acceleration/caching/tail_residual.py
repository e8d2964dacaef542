"""The classic predictor of First Block Cache: what the blocks behind the first one added in the last full step.

Per stack of blocks (Flux has two), so that what the model does between them runs as always. Core's estimate of a
model's memory knows nothing of what is kept here, and on video that is 0.8 GB a conditioning (Wan at 720p): large
tensors wait where core keeps offloaded weights, which takes a hundredth of such a step.
"""

from collections.abc import Hashable
from typing import Any

import torch
from comfy.model_management import unet_offload_device

from ..blocks.block_stack import BlockCall, map_tensors

LARGE = 64 * 2**20  # bytes of a tensor; the streams of a picture are smaller and stay on the card


class TailResidual:
    """What the blocks behind the first added in the last full step, per batch of conditionings and stack."""

    def __init__(self) -> None:
        self.residuals: dict[tuple[Hashable, int], dict[str, Any]] = {}
        self.entries: dict[tuple[Hashable, int], dict[str, Any]] = {}

    def enter(self, key: Hashable, stack_index: int, streams: dict[str, Any], skipped: bool) -> None:
        """Keep what enters the part of a stack that is replaced on a hit (a copy: ControlNets add in place)."""
        self.entries[key, stack_index] = map_tensors(torch.clone if skipped else _copy_away, streams)

    def visit(self, call: BlockCall, key: Hashable, skipped: bool) -> Any:
        """Run the block and learn, or pass its input through and add what was learnt at the end of the stack."""
        if call.index == 0:
            self.enter(key, call.stack_index, call.streams(), skipped)
        last = call.index == call.count - 1
        place = (key, call.stack_index)
        if skipped:
            if not last:
                return call.pack(call.streams())
            return call.pack(map_tensors(_plus, self.entries.pop(place), self.residuals[place]))
        output = call.run()
        if last:
            self.residuals[place] = map_tensors(_added, call.unpack(output), self.entries.pop(place))
        return output


def _waits_on(tensor: torch.Tensor) -> torch.device:
    return unet_offload_device() if tensor.numel() * tensor.element_size() > LARGE else tensor.device


def _copy_away(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(_waits_on(tensor), copy=True)


def _added(output: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
    residual = output - entry.to(output.device)
    return residual.to(_waits_on(residual))


def _plus(entry: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    return entry + residual.to(entry.device)
