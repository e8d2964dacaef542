"""Where the tail residual keeps what it keeps: core does not know of it, so large tensors leave the card."""

import comfy.model_management
import pytest
import torch
from velocity_nodes.acceleration.blocks.block_stack import visit_blocks
from velocity_nodes.acceleration.caching import tail_residual
from velocity_nodes.acceleration.caching.tail_residual import TailResidual

from .test_architectures import flat
from .tiny_models import BUILDERS, TinyModel


def run(model: TinyModel, tail: TailResidual, skipped: bool) -> torch.Tensor:
    """One forward, full or with the tail replaced, as First Block Cache makes it."""

    def visit(call):
        if call.stack_index or call.index:
            return tail.visit(call, "key", skipped)
        output = call.run()
        tail.enter("key", 0, call.unpack(output), skipped)
        return output

    with visit_blocks(model.diffusion_model, visit):
        return flat(model.call(1))


def waits_on(shape: tuple[int, ...]) -> torch.device:
    return tail_residual._waits_on(torch.empty(shape, dtype=torch.bfloat16, device="meta"))


def test_the_streams_of_a_video_wait_beside_the_offloaded_weights_and_those_of_a_picture_on_the_card(monkeypatch):
    """A card is the meta device here."""
    assert waits_on((1, 75600, 5120)) == torch.device("cpu")  # Wan 720p: 774 MB
    assert waits_on((1, 4608, 3072)) == torch.device("meta")  # Flux at 1024x1024 with its text: 28 MB
    monkeypatch.setattr(comfy.model_management, "vram_state", comfy.model_management.VRAMState.HIGH_VRAM)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("meta"))
    assert waits_on((1, 75600, 5120)) == torch.device("meta")  # --highvram asks for it


@pytest.mark.parametrize("name", ["Flux", "LTX-2"])  # two stacks, and a stream of two parts
def test_all_that_is_kept_is_put_away_and_comes_back(monkeypatch, name: str) -> None:
    model, tail, placed = BUILDERS[name](), TailResidual(), []

    def note(tensor: torch.Tensor) -> torch.device:
        placed.append(tuple(tensor.shape))
        return tensor.device

    monkeypatch.setattr(tail_residual, "_waits_on", note)
    outputs = [run(model, tail, skipped=False)]
    kept = [tuple(tensor.shape) for tensor in _tensors(list(tail.residuals.values()))]
    assert sorted(placed) == sorted(kept * 2) and not tail.entries  # what entered, and what was added to it
    outputs.append(run(model, tail, skipped=True))
    assert len(placed) == 2 * len(kept)  # a hit computes nothing between the two
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


def _tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [tensor for item in (tree.values() if isinstance(tree, dict) else tree) for tensor in _tensors(item)]
