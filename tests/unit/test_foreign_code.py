"""Which code of other nodes runs inside a block, what that code may read, and what makes two sets of it alike."""

import functools
import re
from collections.abc import Callable
from pathlib import Path

import comfy.ldm
import pytest
from torch import nn
from velocity_nodes.acceleration.blocks.architectures import Stack
from velocity_nodes.acceleration.blocks.block_call import BlockCall, Place
from velocity_nodes.acceleration.compiling.foreign_code import (
    BETWEEN_BLOCKS,
    block_options,
    patches_inside,
    replaced_forwards,
)

STEP = {"uuids": [1], "sigmas": 0.5, "block": ("input", 3), "block_index": 1}
IN_BLOCKS = {"attn1_patch", "attn2_patch", "attn1_output_patch", "attn2_output_patch", "middle_patch", "mlp_patch"}


def patch(number: float) -> Callable:
    def scaled(value: float, options: dict) -> float:
        return value * number

    return scaled


def inside(options: dict) -> tuple:
    stack = Stack("blocks", ("x",))
    return patches_inside(BlockCall(nn.Identity(), Place(stack, 0, 0, 1), (), {"transformer_options": options}))


@pytest.mark.parametrize(
    "options",
    [
        {"patches": {}, "patches_replace": {}},
        {"patches": {name: [print] for name in BETWEEN_BLOCKS}},
        {"patches": {"attn1_patch": []}, "patches_replace": {"dit": {("double_block", 1): print}}},
        {"patches_replace": {"attn1": {("input", 4): print, ("input", 3, 0): print}}},
    ],
)
def test_without_code_inside_the_block_nothing_of_it_is_left(options: dict) -> None:
    given = {**STEP, **options, "rope_options": {"scale_x": 2.0}}
    before = dict(given)
    assert block_options(given) == {"rope_options": {"scale_x": 2.0}}
    assert given == before  # the model's own are untouched
    assert inside(given) == ()


@pytest.mark.parametrize(
    "code",
    [
        {"patches": {"attn1_patch": [print]}},
        {"patches": {"a patch of another pack": [print]}},
        {"patches_replace": {"attn2": {("input", 3): print}}},
        {"patches_replace": {"attn1": {("input", 3, 1): print}}},
        {"optimized_attention_override": print},
    ],
)
def test_code_inside_the_block_sees_all_options(code: dict) -> None:
    elsewhere = {"patches": {"input_block_patch": [print]}, "patches_replace": {"dit": {("double_block", 1): print}}}
    assert block_options({**elsewhere, **STEP, **code}) == {**STEP, **code}
    assert inside({**STEP, **code})


def test_numbers_and_places_make_no_other_set() -> None:
    def options(number: float, place: int) -> dict:
        replaced = {"attn1": {("input", place): functools.partial(patch(number), 1.0)}}
        return {
            **STEP,
            "block": ("input", place),
            "patches": {"middle_patch": [patch(number)]},
            "patches_replace": replaced,
        }

    assert inside(options(1.0, 3)) == inside(options(2.0, 4))
    assert inside(options(1.0, 3)) != inside({**STEP, "patches": {"middle_patch": [patch(1.0)]}})
    assert inside({"patches": {"middle_patch": [print]}}) != inside({"patches": {"middle_patch": [patch(1.0)]}})


def test_a_layer_with_another_forward() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert replaced_forwards(block) == ()
    own = block[0].forward
    block[0].forward = patch(1.0)
    found = replaced_forwards(block)
    assert [name for name, _ in found] == ["0"]
    block[0].forward = patch(2.0)
    assert replaced_forwards(block) == found
    block[0].forward = own  # as core's bypass LoRAs put it back
    assert replaced_forwards(block) == ()
    assert "forward" not in vars(block[0])


def test_every_patch_that_core_calls_is_known_to_run_inside_a_block_or_between_blocks() -> None:
    """A new name counts as one inside a block, which is right but may take a graph more: look where core calls it."""
    named = re.compile(r'"(\w+)" in (?:transformer_)?patches\b|patches(?:\.get\(|\[)"(\w+)"')
    sources = Path(next(iter(comfy.ldm.__path__))).rglob("*.py")
    found = {one or other for file in sources for one, other in named.findall(file.read_text(encoding="utf-8"))}
    assert found - {"attn1", "attn2"} <= IN_BLOCKS | BETWEEN_BLOCKS
    assert len(found) > 8
