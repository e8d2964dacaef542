"""Step caches under every kind of sampler and schedule: a skipped call may cost a little, never the picture.

The floors are dB of PSNR against the uncached run of the same seed; a run that skips nothing is identical (infinite).
"""

import comfy.model_sampling
import comfy.samplers
import pytest
import torch

from .sampling import Result, empty, last_record, psnr, sample, stock, tiny_flux
from .techniques import FORECAST, Technique, both_nodes, each

IN_ORDER = ("euler", "ddim", "dpmpp_2m", "uni_pc", "lms", "deis", "gradient_estimation")
MANY_CALLS = ("heun", "dpm_2", "exp_heun_2_x0")
OUT_OF_ORDER = ("dpm_fast", "dpm_adaptive")
STOCHASTIC = (
    "euler_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "lcm",
    "ddpm",
    "er_sde",
    "seeds_2",
    "sa_solver_pece",
)
GUIDANCE_FREE = ("euler_cfg_pp", "dpmpp_2m_cfg_pp")
FLOOR = 30.0


def both(technique: Technique, **settings) -> tuple[Result, Result]:
    """Return the stock run and the run with the technique."""
    return stock(**settings), sample(technique.apply(tiny_flux()), **settings)


@both_nodes
@pytest.mark.parametrize("sampler", IN_ORDER)
def test_samplers_in_order(technique: Technique, sampler: str) -> None:
    reference, result = both(technique, sampler=sampler)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
@pytest.mark.parametrize("sampler", MANY_CALLS)
def test_samplers_that_call_the_model_more_than_once_per_step(technique: Technique, sampler: str) -> None:
    reference, result = both(technique, sampler=sampler, steps=12)
    assert len(reference.passes) > 12
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
def test_a_second_call_between_two_sigmas(technique: Technique) -> None:
    """dpmpp_2s calls the model at a sigma that is not on the schedule; with eta 0 it is deterministic."""
    settings = {"sampler": comfy.samplers.ksampler("dpmpp_2s_ancestral", {"eta": 0.0}), "steps": 12}
    reference, result = both(technique, **settings)
    assert len(result.passes) < len(reference.passes) == 23
    assert psnr(reference, result) > FLOOR


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@each
@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("sampler", OUT_OF_ORDER)
def test_samplers_that_leave_the_schedule(technique: Technique, sampler: str, cfg: float) -> None:
    reference, result = both(technique, sampler=sampler, cfg=cfg)
    assert psnr(reference, result) > FLOOR


@both_nodes
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_samplers(technique: Technique, sampler: str) -> None:
    reference, result = both(technique, sampler=sampler, steps=12)
    assert psnr(reference, result) > FLOOR


@each
@pytest.mark.parametrize("sampler", GUIDANCE_FREE)
def test_samplers_that_read_the_unconditional_output(technique: Technique, sampler: str) -> None:
    """They keep `uncond_denoised` of the step they are in; a skipped step must have one of its own."""
    reference, result = both(technique, sampler=sampler, cfg=1.0)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


UNEVEN = (1.0, 0.99, 0.985, 0.98, 0.9, 0.895, 0.7, 0.69, 0.688, 0.5, 0.3, 0.299, 0.298, 0.2, 0.05, 0.04, 0.0)


@each
def test_a_very_uneven_schedule(technique: Technique) -> None:
    sigmas = torch.tensor(UNEVEN)
    reference, result = sample(tiny_flux(), sigmas=sigmas), sample(technique.apply(tiny_flux()), sigmas=sigmas)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
def test_a_schedule_that_goes_back_up(technique: Technique) -> None:
    """Two passes in one list of sigmas (as restart samplers make them): what was learnt lower down is not used."""
    sigmas = torch.tensor([*torch.linspace(1.0, 0.3, 12), 0.8, *torch.linspace(0.75, 0.0, 10)])
    reference, result = sample(tiny_flux(), sigmas=sigmas), sample(technique.apply(tiny_flux()), sigmas=sigmas)
    assert psnr(reference, result) > FLOOR


def test_many_steps_skip_nearly_all() -> None:
    reference, result = both(FORECAST, steps=200)
    assert len(result.passes) < 40
    assert psnr(reference, result) > 35


@both_nodes
@pytest.mark.parametrize("scheduler", ["karras", "beta"])
def test_schedulers(technique: Technique, scheduler: str) -> None:
    reference, result = both(technique, scheduler=scheduler)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
def test_image_to_image(technique: Technique) -> None:
    painted = stock(seed=5).latent
    settings = {"denoise": 0.5, "latent": painted, "steps": 20, "seed": 9}
    reference, result = sample(tiny_flux(), **settings), sample(technique.apply(tiny_flux()), **settings)
    assert len(result.passes) < len(reference.passes)
    assert psnr(reference, result) > FLOOR


@each
def test_two_samplers_share_one_schedule(technique: Technique) -> None:
    """KSamplerAdvanced to step 8 leaving noise, then a second one from there without adding any."""
    model = technique.apply(tiny_flux())
    halves = {"steps": 20, "force_full_denoise": False}
    first = sample(model, last_step=8, **halves)
    second = sample(model, start_step=8, latent=first.latent, noise=empty(), **halves)
    assert last_record(model).planned_steps == 12
    assert len(second.passes) < 12
    assert psnr(stock(), second) > FLOOR


@each
def test_a_second_pass_at_another_size(technique: Technique) -> None:
    """Upscale and refine with the same patched model."""

    def two_passes(model) -> tuple[Result, Result]:
        first = sample(model)
        larger = torch.nn.functional.interpolate(first.latent, size=(24, 24), mode="nearest")
        return first, sample(model, latent=larger, denoise=0.6, seed=8)

    reference, result = two_passes(tiny_flux()), two_passes(technique.apply(tiny_flux()))
    assert len(result[1].passes) < len(reference[1].passes)
    assert psnr(reference[1], result[1]) > FLOOR


def exploding_variance(model):
    """Return a clone with the same weights behind a model sampling that adds noise without scaling the image down.

    ComfyUI's ModelSamplingAdvanced nodes change a model in this way: with an object patch.
    """

    class Sampling(comfy.model_sampling.ModelSamplingCosmosRFlow, comfy.model_sampling.COSMOS_RFLOW):
        pass

    model = model.clone()
    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(sigma_min=0.002, sigma_max=80.0, sigma_data=1.0)
    model.add_object_patch("model_sampling", sampling)
    return model


@pytest.mark.parametrize("node_order", ["sampling first", "cache first"])
@each
def test_a_model_that_predicts_noise(technique: Technique, node_order: str) -> None:
    if node_order == "cache first":
        patched = exploding_variance(technique.apply(tiny_flux()))
    else:
        patched = technique.apply(exploding_variance(tiny_flux()))
    settings = {"scheduler": "karras", "steps": 28}
    sample(tiny_flux(), steps=1)  # the sampling of another clone is still in place when the next run begins
    result = sample(patched, **settings)
    assert len(result.passes) < 28
    assert psnr(sample(exploding_variance(tiny_flux()), **settings), result) > 35
    assert torch.equal(sample(patched, **settings).latent, result.latent)
