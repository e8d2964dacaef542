"""Off means off: what must be bit-identical to stock ComfyUI, or to the same run before."""

import pytest
import torch

from .sampling import PROMPT, empty, last_record, prompt, sample, stock, tiny_flux
from .techniques import FORECAST, Technique, each

RUNS = {
    "euler": {"steps": 8},
    "cfg and a history sampler": {"cfg": 3.0, "sampler": "dpmpp_2m", "scheduler": "karras", "steps": 8},
    "two calls per step": {"sampler": "heun", "steps": 5},
    "noise of the sampler": {"cfg": 2.0, "sampler": "euler_ancestral", "steps": 8},
    "uncond for the sampler": {"cfg": 1.0, "sampler": "euler_cfg_pp", "steps": 8},
    "from the middle": {"steps": 10, "start_step": 3, "last_step": 7},
}


@each
@pytest.mark.parametrize("name", RUNS)
def test_zero_is_bit_identical_to_no_node(technique: Technique, name: str) -> None:
    reference, result = stock(**RUNS[name]), sample(technique.never(tiny_flux()), **RUNS[name])
    assert torch.equal(result.latent, reference.latent)
    assert result.passes == reference.passes


@each
def test_the_same_patched_model_twice_gives_the_same_bits(technique: Technique) -> None:
    model = technique.apply(tiny_flux())
    first, second = sample(model, cfg=2.0), sample(model, cfg=2.0)
    assert torch.equal(first.latent, second.latent)
    assert first.passes == second.passes
    assert len(first.passes) < 20


@each
def test_other_clones_and_stock_do_not_notice(technique: Technique) -> None:
    before, sibling = stock(), tiny_flux().clone()
    patched = technique.apply(tiny_flux())
    clone_before = patched.clone()
    skipping = sample(patched)
    assert len(skipping.passes) < len(before.passes)
    for model in (tiny_flux(), sibling):
        assert torch.equal(sample(model).latent, before.latent)
    assert torch.equal(sample(clone_before).latent, skipping.latent)


@each
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_very_few_steps(technique: Technique, steps: int) -> None:
    """A run too short to learn from is left alone."""
    model = technique.apply(tiny_flux())
    result = sample(model, steps=steps)
    assert last_record(model).planned_steps == steps
    assert torch.isfinite(result.latent).all()
    if steps < 4:
        assert torch.equal(result.latent, stock(steps=steps).latent)


@each
def test_no_steps_at_all(technique: Technique) -> None:
    latent = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    result = sample(technique.apply(tiny_flux()), latent=latent, sigmas=torch.tensor([]))
    assert torch.equal(result.latent, latent)


@each
def test_models_and_samplers_side_by_side(technique: Technique) -> None:
    """Two models and two prompts in turn, as several samplers in one graph: each run is what it is alone."""
    green = prompt(PROMPT.replace("red", "green"))
    one, other = technique.apply(tiny_flux()), FORECAST.apply(tiny_flux())
    alone = [sample(one), sample(other, green, seed=5, latent=empty(1, 24, 8), steps=12)]
    again = [sample(one), sample(other, green, seed=5, latent=empty(1, 24, 8), steps=12)]
    for first, second in zip(alone, again, strict=True):
        assert torch.equal(first.latent, second.latent)
