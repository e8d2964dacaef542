"""Run by test_compile.py: after the first run nothing that a user changes compiles anything, and results stay right."""

import pytest
import torch
from comfy.model_patcher import ModelPatcher

from .compiling import CLOSE, compare, compiled, forget, graphs
from .sampling import NEGATIVE, PROMPT, empty, prompt, run_sampler, tiny_flux
from .techniques import FIRST_BLOCK, FIRST_BLOCK_TAIL, FORECAST, Technique

FIRST = 2  # DoubleStreamBlock and SingleStreamBlock
LONG = [[torch.cat([tokens, tokens, tokens], 1), extra] for tokens, extra in prompt(PROMPT)]
CHANGES = {
    "seed": {"seed": 9},
    "steps": {"steps": 5},
    "sampler": {"sampler": "heun"},
    "higher": {"latent": empty(1, 24, 16)},
    "wider": {"latent": empty(1, 16, 40)},
    "odd": {"latent": empty(1, 17, 13)},
    "two at once": {"latent": empty(2)},
    "three large ones": {"latent": empty(3, 20, 20)},
    "guidance": {"cfg": 3.0},
    "guidance for two": {"cfg": 3.0, "latent": empty(2)},
    "a longer prompt": {"positive": LONG},
    "prompts of two lengths": {"positive": LONG, "negative": prompt(NEGATIVE), "cfg": 3.0},
    "part of a run": {"steps": 6, "start_step": 2, "last_step": 4},
    "an area": {"positive": [[*prompt(PROMPT)[0][:1], {**prompt(PROMPT)[0][1], "area": (8, 16, 0, 0)}]]},
}


@pytest.fixture(scope="module")
def warm() -> ModelPatcher:
    """A compiled model behind its first run, of one sample."""
    forget()
    model = compiled(tiny_flux())
    run_sampler(model, steps=1)
    assert graphs() == FIRST
    return model


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_compiles_nothing(warm: ModelPatcher, change: str) -> None:
    difference, new = compare(warm, tiny_flux(), **CHANGES[change])
    assert new == 0
    assert difference < CLOSE


@pytest.mark.parametrize("order", [(1, 2, 3, 1), (2, 1, 3, 2), (4, 1, 2)])
def test_batch_sizes_in_any_order(order: tuple[int, ...]) -> None:
    """With a model of its own each, so the first batch is the one that the functions are compiled for."""
    model, before = tiny_flux.__wrapped__(), graphs()
    for batch in order:
        difference, _ = compare(compiled(model), model, latent=empty(batch), steps=1)
        assert difference < CLOSE
    assert graphs() - before == FIRST


def test_the_node_again_and_without(warm: ModelPatcher) -> None:
    stock = run_sampler(tiny_flux(), steps=2)
    for model in (compiled(tiny_flux()), compiled(tiny_flux().clone()), compiled(warm), compiled(tiny_flux())):
        assert compare(model, tiny_flux())[1] == 0
    assert torch.equal(run_sampler(tiny_flux(), steps=2), stock)


def with_lora(strength: float, model: ModelPatcher) -> ModelPatcher:
    """Return a clone with a seeded change of one layer in each kind of block."""
    model, generator = model.clone(), torch.Generator().manual_seed(5)
    for layer in ("double_blocks.0.img_attn.qkv", "single_blocks.5.linear1"):
        name = f"diffusion_model.{layer}.weight"
        weight = model.model.state_dict()[name]
        model.add_patches({name: (torch.randn(weight.shape, generator=generator) * 0.05,)}, strength)
    return model


def test_loras_of_any_strength_on_either_side(warm: ModelPatcher) -> None:
    stock = run_sampler(tiny_flux(), steps=2)
    for strength in (0.5, 1.0, -0.3):
        expected = with_lora(strength, tiny_flux())
        for model in (compiled(expected), with_lora(strength, compiled(tiny_flux()))):
            difference, new = compare(model, expected)
            assert new == 0
            assert difference < CLOSE
        assert compare(warm, with_lora(strength, tiny_flux()))[0] > 10 * CLOSE  # the LoRA matters, and it is gone here
    difference, new = compare(warm, tiny_flux())
    assert new == 0
    assert difference < CLOSE
    assert torch.equal(run_sampler(tiny_flux(), steps=2), stock)


@pytest.mark.parametrize("technique", [FORECAST, FIRST_BLOCK, FIRST_BLOCK_TAIL], ids=lambda technique: technique.name)
def test_step_caches_on_either_side(warm: ModelPatcher, technique: Technique) -> None:
    for model in (technique.apply(compiled(tiny_flux())), compiled(technique.apply(tiny_flux()))):
        for settings in ({}, {"cfg": 2.0}, {"latent": empty(2, 20, 16)}):
            difference, new = compare(model, technique.apply(tiny_flux()), steps=12, **settings)
            assert new == 0
            assert difference < 10 * CLOSE  # twelve steps add up


def test_keep_fastest_measures_both_and_compiles_no_more(warm: ModelPatcher) -> None:
    difference, new = compare(compiled(tiny_flux(), keep_fastest=True), tiny_flux(), steps=10)
    assert new == 0
    assert difference < CLOSE
