"""Where a sampler of ComfyUI takes the noise of its steps from, found by giving it other noise."""

import functools

import comfy.k_diffusion.sampling as sampling
import comfy.sample
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher

from demo.tiny_flux.codecs import encode_prompt
from dev.server import DEMO_PACK, TINY_MODEL

PROMPT = "a large red circle at the left on a blue background"


@functools.cache
def tiny_flux() -> ModelPatcher:
    """Return the trained model, loaded once per session."""
    return comfy.sd.load_diffusion_model(str(DEMO_PACK / TINY_MODEL))


def step_noise(sampler: str) -> str:
    """Return `none` if the picture does not depend on noise drawn after the start, else `device` or `cpu`: which
    random generator draws it."""
    stock, drawn = _sample(sampler, 0.0)
    other, _ = _sample(sampler, 1.0)
    return "none" if torch.equal(stock, other) else "+".join(sorted(drawn))


def _sample(sampler: str, shift: float) -> tuple[torch.Tensor, set[str]]:
    drawn: set[str] = set()
    default, brownian = sampling.default_noise_sampler, sampling.BrownianTreeNoiseSampler

    def noted(noise_sampler, device: str):
        def draw(*sigmas):
            drawn.add(device)
            return noise_sampler(*sigmas) + shift

        return draw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "default_noise_sampler", lambda *a, **k: noted(default(*a, **k), "device"))
        patch.setattr(
            sampling,
            "BrownianTreeNoiseSampler",
            lambda *a, cpu=False, **k: noted(brownian(*a, cpu=cpu, **k), "cpu" if cpu else "device"),
        )
        tokens, pooled = encode_prompt(PROMPT)
        conditioning, latent = [[tokens, {"pooled_output": pooled}]], torch.zeros(1, 16, 4, 4)
        noise = comfy.sample.prepare_noise(latent, 1)
        links = ("simple", conditioning, conditioning, latent)
        return comfy.sample.sample(tiny_flux(), noise, 5, 1.0, sampler, *links, seed=1, disable_pbar=True), drawn
