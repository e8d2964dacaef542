"""The classic predictor of First Block Cache: what the blocks behind the first one added in the last full step.

Per stack of blocks (Flux has two), so that what the model does between them runs as always.
"""

from collections.abc import Hashable
from typing import Any

import torch

from ..blocks.block_stack import BlockCall, map_tensors


class TailResidual:
    """What the blocks behind the first added in the last full step, per batch of conditionings and stack."""

    def __init__(self) -> None:
        self.residuals: dict[tuple[Hashable, int], dict[str, Any]] = {}
        self.entries: dict[tuple[Hashable, int], dict[str, Any]] = {}

    def enter(self, key: Hashable, stack_index: int, streams: dict[str, Any]) -> None:
        """Keep what enters the part of a stack that is replaced on a hit (a copy: ControlNets add in place)."""
        self.entries[key, stack_index] = map_tensors(torch.clone, streams)

    def visit(self, call: BlockCall, key: Hashable, skipped: bool) -> Any:
        """Run the block and learn, or pass its input through and add what was learnt at the end of the stack."""
        if call.index == 0:
            self.enter(key, call.stack_index, call.streams())
        last = call.index == call.count - 1
        place = (key, call.stack_index)
        if skipped:
            if not last:
                return call.pack(call.streams())
            return call.pack(map_tensors(torch.add, self.entries.pop(place), self.residuals[place]))
        output = call.run()
        if last:
            self.residuals[place] = map_tensors(torch.sub, call.unpack(output), self.entries.pop(place))
        return output
