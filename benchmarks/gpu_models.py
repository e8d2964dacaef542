"""Models of published sizes with random weights, made in memory, and one sampling run of each through core's samplers.

Random weights cost the same time as trained ones and say nothing of quality.
"""

from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.precision import precisions
from velocity_nodes.acceleration.precision.quantize import choose, linear_layers, quantize
from velocity_nodes.acceleration.precision.rowwise_fp8 import use_rowwise_activations

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Workload:
    """A model and what is sampled with it: `latent` is its shape, `steps` with euler on the simple schedule, CFG 1.

    `config` names the class of `comfy.supported_models` that builds it with the settings of `unet`.
    """

    name: str
    title: str
    config: str
    unet: dict[str, Any]
    latent: tuple[int, ...]
    steps: int
    pooled: int = 0
    text_tokens: int = 512
    text_width: int = 4096


FLUX_UNET = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
    "txt_ids_dims": [],
}  # fmt: skip
WAN_UNET = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 5120, "out_dim": 16, "num_heads": 40, "ffn_dim": 13824,
    "num_layers": 40, "in_dim": 16,
}  # fmt: skip
FLUX = Workload(
    "flux", "FLUX.1-dev shape, 12 B, 1024 x 1024, 28 steps", "Flux", FLUX_UNET, (1, 16, 128, 128), 28, pooled=768
)
WAN = Workload("wan", "Wan 2.1 shape, 14 B, 832 x 480, 81 frames", "WAN21_T2V", WAN_UNET, (1, 16, 21, 60, 104), 8)
FULL = (FLUX, WAN)
TINY = (
    replace(
        FLUX, title="tiny FLUX", latent=(1, 16, 8, 8), steps=8, text_tokens=16,
        unet={**FLUX_UNET, "hidden_size": 256, "num_heads": 2, "depth": 1, "depth_single_blocks": 2},
    ),
    replace(
        WAN, title="tiny Wan", latent=(1, 16, 3, 8, 8), steps=8, text_tokens=16,
        unet={**WAN_UNET, "dim": 256, "num_heads": 2, "ffn_dim": 512, "num_layers": 3},
    ),
)  # fmt: skip


def random_weights(work: Workload, dtype: torch.dtype) -> Weights:
    """Return a state dict on the device that samples; matrices keep the size of what they multiply."""
    config = getattr(comfy.supported_models, work.config)(dict(work.unet))
    config.set_inference_dtype(dtype, None)
    shapes = config.get_model({}, "", device="meta").diffusion_model.state_dict()
    device = comfy.model_management.get_torch_device()
    draw = torch.Generator(device).manual_seed(1)
    weights = {}
    for name, shape in shapes.items():
        if shape.ndim > 1:
            values = torch.randn(shape.shape, generator=draw, device=device, dtype=dtype)
            weights[name] = values.mul_(shape[0].numel() ** -0.5)
        else:
            weights[name] = torch.full(shape.shape, float("norm" in name and "bias" not in name), device=device)
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


def build(work: Workload, precision: str, dtype: torch.dtype) -> ModelPatcher:
    """Return the model in "bf16" (that is, in `dtype`), "fp8 core" (its fp8_e4m3fn_fast) or "fp8 ours" (fp8 fast)."""
    weights = random_weights(work, dtype)
    device = comfy.model_management.get_torch_device()
    options: dict[str, Any] = {"load_device": device, "offload_device": device}
    if precision == "bf16":
        options["dtype"] = dtype
    elif precision == "fp8 core":
        options |= {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True}
    else:
        weights = _quantised(work, weights)
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options, disable_dynamic=True)
    if precision == "fp8 ours":
        use_rowwise_activations(model.model.diffusion_model)
    return model


def _quantised(work: Workload, weights: Weights) -> Weights:
    """Take each weight out of `weights` and quantise it as Load Diffusion Model+ does while it loads."""
    precision = precisions.find("fp8 fast")
    config = getattr(comfy.supported_models, work.config)(dict(work.unet))
    layers, blocks = linear_layers(weights, config)
    chosen = choose(layers.values(), blocks, "auto")
    result: Weights = {}
    for name in list(weights):
        weight = weights.pop(name)
        fits = all(side % precision.multiple == 0 for side in weight.shape)
        result.update(quantize(name, weight, precision) if layers.get(name) in chosen and fits else {name: weight})
    return result


def sample(work: Workload, model: ModelPatcher) -> torch.Tensor:
    """Run core's KSampler once, always with the same noise and conditioning; return the latent."""
    draw = torch.Generator().manual_seed(2)
    text = torch.randn(1, work.text_tokens, work.text_width, generator=draw)
    extra = {"pooled_output": torch.randn(1, work.pooled, generator=draw), "guidance": 3.5} if work.pooled else {}
    conditioning = [[text, extra]]
    latent = torch.zeros(work.latent)
    noise = comfy.sample.prepare_noise(latent, 3)
    arguments = (work.steps, 1.0, "euler", "simple", conditioning, conditioning, latent)
    return comfy.sample.sample(model, noise, *arguments, seed=3, disable_pbar=True)
