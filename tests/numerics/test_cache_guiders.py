"""Step caches under guiders that evaluate more than a positive and a negative prompt."""

import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg, PerpNeg

from .sampling import NEGATIVE, PROMPT, last_record, prompt, psnr, sample, sample_guided, stock, tiny_flux
from .techniques import FORECAST, Technique, both_nodes, each

GREEN = "a large green square at the right on a yellow background"
FLOOR = 30.0


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
    """A second evaluation in every step, with other patches: its history is its own, it is skipped with the first."""
    reference = sample(with_perturbed_attention(tiny_flux()))
    assert psnr(stock(), reference) < 30, "this guidance changes nothing: it proves nothing"
    if node_order == "guidance first":
        result = sample(technique.apply(with_perturbed_attention(tiny_flux())))
    else:
        result = sample(with_perturbed_attention(technique.apply(tiny_flux())))
    assert len(reference.passes) == 40
    assert len(result.passes) < 40 and len(result.passes) % 2 == 0
    assert psnr(reference, result) > FLOOR


@both_nodes
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


@both_nodes
@pytest.mark.parametrize("guider", [lambda model: dual(model, False), lambda model: dual(model, True), perp],
                         ids=["dual", "dual nested", "perp-neg"])  # fmt: skip
def test_guiders_with_three_conditionings(technique: Technique, guider) -> None:
    reference = sample_guided(guider(tiny_flux()))
    result = sample_guided(guider(technique.apply(tiny_flux())))
    assert set(result.passes) == {3}
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@both_nodes
def test_a_higher_guidance_scale_is_not_skipped_more(technique: Technique) -> None:
    """Guidance multiplies the error of both halves: what counts is the guided output."""
    passes = [len(sample(technique.apply(tiny_flux()), cfg=cfg).passes) for cfg in (1.0, 3.0, 6.0)]
    assert passes[0] < passes[1] <= passes[2]


class Halfway(comfy.samplers.CFGGuider):
    """A guider of another pack: it has a `cfg`, and mixes by a rule of its own."""

    def predict_noise(self, x, timestep, model_options=None, seed=None) -> torch.Tensor:
        """Return the mean of both predictions."""
        conds = [self.conds["negative"], self.conds["positive"]]
        return sum(comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)) / 2


@both_nodes
def test_a_guider_that_mixes_by_its_own_rule(technique: Technique) -> None:
    """Its scale tells nothing: each conditioning counts by itself."""
    results = []
    for scale in (1.0, 30.0):
        guider = Halfway(technique.apply(tiny_flux()))
        guider.set_conds(prompt(PROMPT), prompt(NEGATIVE))
        guider.set_cfg(scale)
        results.append(sample_guided(guider))
    assert torch.equal(results[0].latent, results[1].latent)
    assert len(results[0].passes) < 20


def test_a_cfg_function_may_use_either_prediction() -> None:
    """This one does as core does, which can't be known: at scale 1 the negative's error counts nevertheless."""
    metrics = []
    for hooked in (False, True):
        model = FORECAST.apply(tiny_flux())
        model.model_options["disable_cfg1_optimization"] = True
        if hooked:
            model.set_model_sampler_cfg_function(lambda args: args["cond"], disable_cfg1_optimization=True)
        sample(model, prompt(PROMPT), prompt(GREEN), cfg=1.0)
        metrics.append(next(step.metric for step in last_record(model).steps if step.metric is not None))
    assert metrics[1] > 1.01 * metrics[0]
