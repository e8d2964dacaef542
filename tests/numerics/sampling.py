"""Real sampling with the trained tiny Flux, in process, by the calls that ComfyUI's KSampler nodes make."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.latent_formats import Flux
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.report.quality import psnr_each
from velocity_nodes.acceleration.report.telemetry import ATTACHMENT, RunRecord

from demo.tiny_flux.codecs import decode_latent, encode_prompt
from dev.server import DEMO_PACK, TINY_MODEL

PROMPT = "a large red circle at the left on a blue background"
NEGATIVE = "a small black square at the right on a white background"
SIDE = 16  # latent cells per side: 64 pixels


@functools.cache
def tiny_flux() -> ModelPatcher:
    """Return the trained model, loaded once per session; apply functions clone it, nothing may change it."""
    return comfy.sd.load_diffusion_model(str(DEMO_PACK / TINY_MODEL))


def prompt(*texts: str) -> list:
    """Return conditioning for a batch of one sample per text (all of one batch share one entry, as core has it)."""
    tokens, pooled = zip(*(encode_prompt(text) for text in texts), strict=True)
    return [[torch.cat(tokens), {"pooled_output": torch.cat(pooled)}]]


def empty(batch: int = 1, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Return the latent (B, 16, H, W) that EmptyLatentImage stands for."""
    return torch.zeros(batch, 16, height, width)


def picture(latent: torch.Tensor) -> torch.Tensor:
    """Return the image (B, H, W, 3) in 0..1 of what a sampler returned."""
    return ((decode_latent(Flux().process_in(latent)) + 1) / 2).clamp(0, 1).movedim(1, -1)


@contextmanager
def full_passes(model: ModelPatcher, last_block: str = "single_blocks.8") -> Iterator[list[int]]:
    """Yield a list that grows by one batch size for each call that reaches the last block: a full model call."""
    seen: list[int] = []
    block = model.model.diffusion_model.get_submodule(last_block)
    handle = block.register_forward_hook(lambda _block, _args, output: seen.append(len(output)))
    try:
        yield seen
    finally:
        handle.remove()


@dataclass(frozen=True)
class Result:
    """What a run returned, and the batch size of each full call that the model itself saw."""

    latent: torch.Tensor
    passes: tuple[int, ...]

    @property
    def image(self) -> torch.Tensor:
        """The picture (B, H, W, 3)."""
        return picture(self.latent)


def sample(model: ModelPatcher, *conditioning: list, **settings: Any) -> Result:
    """Sample as `run_sampler` does and count what the model sees."""
    with full_passes(model) as seen:
        latent = run_sampler(model, *conditioning, **settings)
    return Result(latent, tuple(seen))


def run_sampler(
    model: ModelPatcher,
    positive: list | None = None,
    negative: list | None = None,
    *,
    seed: int = 2,
    steps: int = 20,
    cfg: float = 1.0,
    sampler: str | comfy.samplers.KSAMPLER = "euler",
    scheduler: str = "simple",
    latent: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    **others: Any,
) -> torch.Tensor:
    """Sample as ComfyUI's KSampler nodes do, or with a sampler object as SamplerCustom does; return the latent.

    `others` are those of `comfy.sample.sample` or `sample_custom` (denoise, start_step, sigmas, noise_mask ...).
    """
    positive = prompt(PROMPT) if positive is None else positive
    negative = prompt(NEGATIVE) if negative is None else negative
    latent = empty() if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    conds, others = (positive, negative, latent), {"seed": seed, "disable_pbar": True, **others}
    if isinstance(sampler, str):
        return comfy.sample.sample(model, noise, steps, cfg, sampler, scheduler, *conds, **others)
    return comfy.sample.sample_custom(model, noise, cfg, sampler, schedule(model, scheduler, steps), *conds, **others)


def sample_guided(guider: comfy.samplers.CFGGuider, *, seed: int = 2, steps: int = 20) -> Result:
    """Sample with a guider object, as SamplerCustomAdvanced does."""
    model = guider.model_patcher
    noise, sigmas = comfy.sample.prepare_noise(empty(), seed), schedule(model, "simple", steps)
    with full_passes(model) as seen:
        out = guider.sample(
            noise, empty(), comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=seed
        )
    return Result(out, tuple(seen))


def schedule(model: ModelPatcher, scheduler: str, steps: int) -> torch.Tensor:
    """Return the sigmas (steps + 1) of a scheduler, as BasicScheduler does."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


@functools.cache
def stock(**settings: Any) -> Result:
    """Return the run without any node. Only for hashable settings, which most are; cached for the session."""
    return sample(tiny_flux(), **settings)


def psnr(reference: Result, result: Result) -> float:
    """Return the PSNR (dB) of the worst picture of a batch; infinite when identical."""
    return min(psnr_each(reference.image, result.image))


def last_record(model: ModelPatcher) -> RunRecord:
    """Return the newest run in the log that travels with the model."""
    return list(model.get_attachment(ATTACHMENT))[-1]
