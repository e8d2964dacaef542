"""Step caches and everything that conditions a run: guidance, batches, areas, ranges, ControlNets, masks."""

from collections.abc import Callable

import comfy.controlnet
import comfy.sample
import pytest
import torch
from velocity_nodes.acceleration.report.telemetry import StepRecord

from .sampling import (
    NEGATIVE,
    PROMPT,
    Result,
    empty,
    last_record,
    prompt,
    psnr,
    sample,
    stock,
    tiny_flux,
)
from .techniques import Technique, each

BLACK = "a small black triangle at the bottom on a black background"
GREEN = "a large green square at the right on a yellow background"
FLOOR = 30.0


def split(model):
    """Return a clone for which nothing fits into memory twice, so that core evaluates each conditioning by itself."""
    model = model.clone()
    model.add_object_patch("memory_required", lambda *_args, **_kwargs: 1e30)
    return model


def decisions(model) -> list[tuple[int, bool]]:
    """Return (step, full) of each call of the newest run."""
    return [(step.index, step.full) for step in last_record(model).steps]


@each
def test_cond_and_uncond_in_one_call_or_two(technique: Technique) -> None:
    together, apart = technique.apply(tiny_flux()), technique.apply(split(tiny_flux()))
    one, two = sample(together, cfg=2.0), sample(apart, cfg=2.0)
    assert set(one.passes) == {2} and set(two.passes) == {1}
    assert len(two.passes) == 2 * len(one.passes) < 40  # both halves of a step are run, or none
    assert decisions(apart) == decisions(together)
    assert psnr(one, two) > 60
    assert psnr(stock(cfg=2.0), two) > FLOOR


@each
def test_guidance_that_begins_midway(technique: Technique) -> None:
    """The negative prompt is only there from 40 % on; the first guided step has nothing to forecast it from."""
    late = [[prompt(NEGATIVE)[0][0], {**prompt(NEGATIVE)[0][1], "start_percent": 0.4}]]
    reference = sample(tiny_flux(), negative=late, cfg=2.0)
    result = sample(technique.apply(tiny_flux()), negative=late, cfg=2.0)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


def first_metric(model) -> float:
    """Return what was compared with the limit where the newest run had its first choice."""
    return next(step.metric for step in last_record(model).steps if step.metric is not None)


@each
def test_the_worst_sample_of_a_batch_decides(technique: Technique) -> None:
    noise, model = comfy.sample.prepare_noise(empty(), 4), technique.apply(tiny_flux())
    passes, metrics = [], []
    for text in (PROMPT, BLACK):
        passes.append(len(sample(model, prompt(text), noise=noise).passes))
        metrics.append(first_metric(model))
    batch = sample(model, prompt(PROMPT, BLACK), noise=torch.cat([noise, noise]), latent=empty(2))
    assert set(batch.passes) == {2}
    assert max(passes) <= len(batch.passes) < 20
    assert max(metrics) > 1.005 * min(metrics), "both samples are equally hard: this batch proves nothing"
    assert first_metric(model) == pytest.approx(max(metrics), rel=1e-3)
    for i, text in enumerate((PROMPT, BLACK)):
        reference = sample(tiny_flux(), prompt(text), noise=noise)
        assert psnr(reference, Result(batch.latent[i : i + 1], ())) > FLOOR


@each
def test_areas(technique: Technique) -> None:
    area = [[prompt(GREEN)[0][0], {**prompt(GREEN)[0][1], "area": (16, 8, 0, 8), "strength": 1.0}]]
    reference = sample(tiny_flux(), prompt(PROMPT) + area)
    result = sample(technique.apply(tiny_flux()), prompt(PROMPT) + area)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
@pytest.mark.parametrize("switch", [0.3, 0.63])
def test_a_prompt_that_changes_midway(technique: Technique, switch: float) -> None:
    first = [[prompt(PROMPT)[0][0], {**prompt(PROMPT)[0][1], "end_percent": switch}]]
    second = [[prompt(GREEN)[0][0], {**prompt(GREEN)[0][1], "start_percent": switch}]]
    reference = sample(tiny_flux(), first + second)
    model = technique.apply(tiny_flux())
    result = sample(model, first + second)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR
    assert at_change(model, switch, lambda sigma, edge: sigma <= edge).full  # the second prompt begins
    assert at_change(model, switch, lambda sigma, edge: sigma < edge).full  # the first prompt has ended


def at_change(model, percent: float, behind: Callable[[torch.Tensor, float], torch.Tensor]) -> StepRecord:
    """Return the first step of the newest run for which core says that the range's edge at `percent` lies behind.

    Core compares a float32 tensor with a Python number, so a sigma that was rounded may lie on the edge exactly.
    """
    edge = tiny_flux().get_model_object("model_sampling").percent_to_sigma(percent)
    return next(step for step in last_record(model).steps if behind(torch.tensor(step.sigma), edge))


class TinyControl(comfy.controlnet.ControlBase):
    """A ControlNet without weights: adds a fixed pattern to the image stream (B, tokens, 128) of the double blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options) -> dict | None:
        """Return what is added, None outside of the range."""
        begin, end = self.timestep_range
        if not end <= t[0] <= begin:
            return None
        self.calls += 1
        pattern = torch.randn(1, 64, 128, generator=torch.Generator().manual_seed(3)) * 2
        control = {"input": [pattern.repeat(len(x_noisy), 1, 1) for _ in range(3)], "output": []}
        return self.control_merge({**control, "middle": []}, None, output_dtype=None)


@each
def test_controlnet_with_a_range(technique: Technique) -> None:
    def controlled(model) -> tuple[Result, int]:
        control = TinyControl().set_cond_hint(torch.zeros(1, 3, 8, 8), 1.0, (0.2, 0.65))
        positive = [[prompt(PROMPT)[0][0], {**prompt(PROMPT)[0][1], "control": control}]]
        return sample(model, positive), control.calls

    model = technique.apply(tiny_flux())
    (reference, stock_calls), (result, calls) = controlled(tiny_flux()), controlled(model)
    assert psnr(stock(), reference) < 30, "this ControlNet changes nothing: it proves nothing"
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR
    if not technique.probes:
        assert calls < stock_calls
    assert at_change(model, 0.2, lambda sigma, edge: sigma <= edge).full
    assert at_change(model, 0.65, lambda sigma, edge: sigma < edge).full


@each
def test_inpainting(technique: Technique) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0
    settings = {"latent": stock(seed=5).latent, "noise_mask": mask, "seed": 11}
    reference = sample(tiny_flux(), prompt(GREEN), **settings)
    result = sample(technique.apply(tiny_flux()), prompt(GREEN), **settings)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR
    assert torch.allclose(result.latent[..., :8], settings["latent"][..., :8], atol=1e-4)
