"""Batched Sampler: several KSamplers that differ in seed, conditioning values and latent, as one batch."""

import inspect
import json
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # so named by ComfyUI; older ones lack the second


class VelocityBatchedSampler(io.ComfyNode):
    """Takes one item per job, or one for all; returns one latent per job."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityBatchedSampler",
            display_name="Batched Sampler",
            category="Velocity/worker",
            is_input_list=True,
            inputs=[
                io.Model.Input("model"),
                io.String.Input("seeds", tooltip="One per job, as JSON."),
                io.Int.Input("steps", default=20, min=1, max=10000),
                io.Float.Input("cfg", default=8.0, min=0.0, max=100.0),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS),
                io.Combo.Input("scheduler", options=comfy.samplers.KSampler.SCHEDULERS),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0),
            ],
            outputs=[io.Latent.Output(is_output_list=True)],
        )

    @classmethod
    def execute(
        cls, model: list, seeds: list[str], positive: list, negative: list, latent_image: list, **options: list
    ) -> io.NodeOutput:
        """Sample once, with the noise that each job would have alone."""
        model, numbers = model[0], json.loads(seeds[0])
        jobs = len(numbers)
        latents = [_fixed(model, latent) for latent in _for_all(latent_image, jobs)]
        noise = torch.cat([comfy.sample.prepare_noise(*pair) for pair in zip(latents, numbers, strict=True)])
        steps, cfg, sampler, scheduler, denoise = (
            options[name][0] for name in ("steps", "cfg", "sampler_name", "scheduler", "denoise")
        )
        samples = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            _merged(_for_all(positive, jobs)),
            _merged(_for_all(negative, jobs)),
            torch.cat(latents),
            denoise=denoise,
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=numbers[0],
        )
        kept = [{k: v for k, v in latent.items() if k not in _RATIOS} for latent in _for_all(latent_image, jobs)]
        return io.NodeOutput([{**kept[i], "samples": samples[i : i + 1].clone()} for i in range(jobs)])


def _for_all(items: list, jobs: int) -> list:
    return items * jobs if len(items) == 1 else items


def _fixed(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    """Return the latent (1, C, ...) as a KSampler takes it: an empty one gets the model's channels."""
    known = inspect.signature(comfy.sample.fix_empty_latent_channels).parameters
    ratios = {name: latent.get(name) for name in _RATIOS if name in known}
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)


def _merged(conditionings: list[list]) -> list:
    """Return one conditioning whose tensors hold a row for each job; the entries have equal forms."""
    return [
        [torch.cat([entry[0] for entry in entries]), _merged_options([entry[1] for entry in entries])]
        for entries in zip(*conditionings, strict=True)
    ]


def _merged_options(options: list[dict[str, Any]]) -> dict[str, Any]:
    first = options[0]
    rows = {k: torch.cat([other[k] for other in options]) for k, v in first.items() if isinstance(v, torch.Tensor)}
    return {**first, **rows}
