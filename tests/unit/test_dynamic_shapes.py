"""Which inputs of a block change from prompt to prompt: samples, tokens, and what matters to no block."""

import pytest
import torch
from torch import nn
from velocity_nodes.acceleration.blocks.architectures import Stack
from velocity_nodes.acceleration.blocks.block_call import BlockCall, Place
from velocity_nodes.acceleration.compiling.dynamic_shapes import BlockInputs

WIDTH, TOKENS = 32, 20


class Block(nn.Module):
    def forward(self, x, context, vec, pe, transformer_options=None):
        return x


def inputs(samples: int, text: int = 7, options: dict | None = None, **others: torch.Tensor) -> BlockInputs:
    """Return the inputs of a block whose rotary table `pe` is shared by all samples."""
    tensors = {
        "context": torch.zeros(samples, text, WIDTH),
        "vec": torch.zeros(samples, WIDTH),
        "pe": torch.zeros(1, 1, TOKENS, 4),
        **others,
    }
    stack = Stack("blocks", ("x",), shared=("pe",))
    call = BlockCall(Block(), Place(stack, 0, 0, 1), (torch.zeros(samples, TOKENS, WIDTH),), tensors)
    if options is not None:
        call.kwargs["transformer_options"] = options
    return BlockInputs(call)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_one_entry_for_each_sample(samples: int) -> None:
    """One sample gives the same answer as many, so that both find one function."""
    assert inputs(samples).samples == samples
    assert inputs(samples).batched() == {("x",), ("context",), ("vec",)}


def test_an_input_that_has_one_entry_for_all_samples() -> None:
    assert inputs(3, vec=torch.zeros(1, WIDTH)).batched() == {("x",), ("context",)}


def test_marks_of_one_block_are_gone_in_the_next() -> None:
    found = inputs(2)
    found.mark_dynamic(found.batched(), any_batch=True)
    assert found.stream._dynamo_unbacked_indices == {0}
    assert not hasattr(found.kwargs["pe"], "_dynamo_unbacked_indices")
    found.mark_dynamic(frozenset(), any_batch=True)
    assert not hasattr(found.stream, "_dynamo_unbacked_indices")


def test_tokens_are_open_and_widths_are_not() -> None:
    found = inputs(2)
    found.mark_dynamic(found.batched(), any_batch=False)
    assert found.stream._dynamo_weak_dynamic_indices == {0, 1}
    assert found.kwargs["pe"]._dynamo_weak_dynamic_indices == {2}
    assert found.kwargs["vec"]._dynamo_weak_dynamic_indices == {0}


def test_options_lose_what_changes_and_keep_the_rest() -> None:
    options = {"uuids": [1], "sigmas": torch.ones(1), "block": ("input", 3), "rope_options": {"scale_x": 2.0}}
    assert inputs(1, options=options).kwargs["transformer_options"] == {"rope_options": {"scale_x": 2.0}}
    assert set(options) == {"uuids", "sigmas", "block", "rope_options"}  # the model's own are untouched
