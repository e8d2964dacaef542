"""Step caches and everything that conditions a run: guidance, batches, areas, ranges, ControlNets, masks, guiders."""

import comfy.controlnet
import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg, PerpNeg

from .sampling import (
    NEGATIVE,
    PROMPT,
    Result,
    empty,
    last_record,
    prompt,
    psnr,
    sample,
    sample_guided,
    stock,
    tiny_flux,
)
from .techniques import TECHNIQUES, Technique, each

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


@each
def test_the_worst_sample_of_a_batch_decides(technique: Technique) -> None:
    texts, noise = (PROMPT, GREEN, NEGATIVE), torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    noise[2] = noise[0]
    model = technique.apply(tiny_flux())
    alone = [sample(model, prompt(text), noise=noise[i : i + 1]) for i, text in enumerate(texts)]
    batch = sample(model, prompt(*texts), noise=noise, latent=empty(3))
    assert set(batch.passes) == {3}
    assert len(batch.passes) >= max(len(one.passes) for one in alone)
    assert len({len(one.passes) for one in alone}) > 1, "no sample is harder than another: this batch proves nothing"
    for i, text in enumerate(texts):
        reference = sample(tiny_flux(), prompt(text), noise=noise[i : i + 1])
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
    sampling = tiny_flux().get_model_object("model_sampling")
    sigma = sampling.percent_to_sigma(switch)
    behind = next(step for step in last_record(model).steps if step.sigma < sigma)
    assert behind.full  # no forecast can know the new prompt


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
    sampling = tiny_flux().get_model_object("model_sampling")
    for percent in (0.2, 0.65):
        sigma = sampling.percent_to_sigma(percent)
        assert next(step for step in last_record(model).steps if step.sigma < sigma).full


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


def with_perturbed_attention(model, scale: float = 0.5):
    """Return a clone whose post CFG function evaluates the conditioning again with a block left out, as PAG does."""

    def leave_out(args: dict, _extra: dict) -> dict:
        return {"img": args["img"], "txt": args["txt"]}

    def post_cfg(args: dict) -> torch.Tensor:
        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), leave_out, "dit", "double_block", 1
        )
        (perturbed,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], options
        )
        return args["denoised"] + (args["cond_denoised"] - perturbed) * scale

    model = model.clone()
    model.set_model_sampler_post_cfg_function(post_cfg)
    return model


@each
@pytest.mark.parametrize("node_order", ["guidance first", "cache first"])
def test_perturbed_attention_guidance(technique: Technique, node_order: str) -> None:
    """A second evaluation in every step, with other patches: it has a history of its own and is skipped with the first."""
    reference = sample(with_perturbed_attention(tiny_flux()))
    assert psnr(stock(), reference) < 30, "this guidance changes nothing: it proves nothing"
    if node_order == "guidance first":
        result = sample(technique.apply(with_perturbed_attention(tiny_flux())))
    else:
        result = sample(with_perturbed_attention(technique.apply(tiny_flux())))
    assert len(reference.passes) == 40
    assert len(result.passes) < 40 and len(result.passes) % 2 == 0
    assert psnr(reference, result) > FLOOR


@each
def test_perp_neg_that_evaluates_within_the_cfg_function(technique: Technique) -> None:
    def perpendicular(model):
        return PerpNeg.execute(model, prompt(GREEN), 1.0).result[0]

    reference = sample(perpendicular(tiny_flux()), cfg=2.0)
    result = sample(perpendicular(technique.apply(tiny_flux())), cfg=2.0)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


def dual(model, nested: bool) -> Guider_DualCFG:
    """Return a guider with three conditionings and two scales."""
    guider = Guider_DualCFG(model)
    guider.set_conds(prompt(PROMPT), prompt(GREEN), prompt(NEGATIVE))
    guider.set_cfg(1.5, 1.5, nested=nested)
    return guider


def perp(model) -> Guider_PerpNeg:
    """Return a guider that evaluates positive, negative and empty at once."""
    guider = Guider_PerpNeg(model)
    guider.set_conds(prompt(PROMPT), prompt(NEGATIVE), prompt(GREEN))
    guider.set_cfg(2.0, 1.0)
    return guider


@each
@pytest.mark.parametrize("guider", [lambda model: dual(model, False), lambda model: dual(model, True), perp],
                         ids=["dual", "dual nested", "perp-neg"])  # fmt: skip
def test_guiders_with_three_conditionings(technique: Technique, guider) -> None:
    reference = sample_guided(guider(tiny_flux()))
    result = sample_guided(guider(technique.apply(tiny_flux())))
    assert set(result.passes) == {3}
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@pytest.mark.parametrize("technique", TECHNIQUES[:2], ids=lambda technique: technique.name)
def test_a_higher_guidance_scale_is_not_skipped_more(technique: Technique) -> None:
    """Guidance multiplies the error of both halves: what counts is the guided output."""
    passes = [len(sample(technique.apply(tiny_flux()), cfg=cfg).passes) for cfg in (1.0, 3.0, 6.0)]
    assert passes[0] < passes[1] <= passes[2]
