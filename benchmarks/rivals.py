"""Core's own step caches, as nodes, put on a model; with their default window or with the steps that ours may skip."""

from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from .tiny_flux import Settings

DEFAULT_WINDOW = (0.15, 0.95)  # the nodes' start and end percent
WARMUP, FINAL = 3, 1  # the steps that Velocity Forecast leaves alone


def easycache(model: ModelPatcher, threshold: float, window: tuple[float, float]) -> ModelPatcher:
    """Return a clone of `model` with EasyCache, which gets a copy of its input.

    EasyCache adds its stored difference to its input in place. Where no cast intervenes (the CPU in fp32) that input is
    the sampler's own latent, and the picture is ruined; the copy keeps the comparison fair.
    """
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "copy the input", _copy_input)
    return EasyCacheNode.execute(model, threshold, *window, False).result[0]


def lazycache(model: ModelPatcher, threshold: float, window: tuple[float, float]) -> ModelPatcher:
    """Return a clone of `model` with LazyCache."""
    return LazyCacheNode.execute(model, threshold, *window, False).result[0]


def our_window(model: ModelPatcher, settings: Settings) -> tuple[float, float]:
    """Return the start and end percent with which core's caches may skip just the steps that ours may."""
    sampling = model.get_model_object("model_sampling")
    # KSampler and not the scheduler alone: uni_pc gets another schedule.
    sampler = comfy.samplers.KSampler(
        model, settings.steps, model.load_device, settings.sampler, settings.scheduler, denoise=1.0
    )
    sigmas = sampler.sigmas.tolist()
    first, last = WARMUP, settings.steps - FINAL
    start = (sigmas[first - 1] + sigmas[first]) / 2
    end = (sigmas[last - 1] + sigmas[last]) / 2
    return _percent(sampling, start), _percent(sampling, end)


def _percent(sampling: Any, sigma: float) -> float:
    """Return the inverse of ComfyUI's `percent_to_sigma`, which falls from 0 to 1, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sampling.percent_to_sigma(middle) > sigma else (low, middle)
    return high


def _copy_input(executor: Callable, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return executor(x.clone(), *args, **kwargs)
