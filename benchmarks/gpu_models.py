"""Models of published sizes with random weights, made in memory, and one sampling run of each through core's samplers.

Random weights cost the same time as trained ones and say nothing of quality.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sample
import comfy.sd
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.precision import precisions
from velocity_nodes.acceleration.precision.quantize import choose, largest, linear_layers, quantize
from velocity_nodes.acceleration.precision.rowwise_fp8 import use_rowwise_activations
from velocity_nodes.acceleration.precision.weight_stream import multiply_in_full

from .gpu_start import end_node

Weights = dict[str, torch.Tensor]
CORE_FP8 = "fp8 core"


@dataclass(frozen=True)
class Workload:
    """A model and what is sampled with it: `latent` is its shape, `steps` with euler on the simple schedule.

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
    cfg: float = 1.0


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
SDXL_UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "num_head_channels": 64, "context_dim": 2048,
    "num_classes": "sequential", "adm_in_channels": 2816, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False,
    "use_checkpoint": False,
}  # fmt: skip
FLUX = Workload(
    "flux", "FLUX.1-dev shape, 12 B, 1024 x 1024, 28 steps", "Flux", FLUX_UNET, (1, 16, 128, 128), 28, pooled=768
)
WAN = Workload("wan", "Wan 2.1 shape, 14 B, 832 x 480, 81 frames", "WAN21_T2V", WAN_UNET, (1, 16, 21, 60, 104), 8)
WAN_SMALL = replace(
    WAN, name="wan1.3b", title="Wan 2.1 shape, 1.3 B, 832 x 480, 81 frames",
    unet={**WAN_UNET, "dim": 1536, "num_heads": 12, "ffn_dim": 8960, "num_layers": 30},
)  # fmt: skip
SDXL = Workload(
    "sdxl", "SDXL shape, 2.6 B, 1024 x 1024, CFG 7, 28 steps", "SDXL", SDXL_UNET, (1, 4, 128, 128), 28, pooled=1280,
    text_tokens=77, text_width=2048, cfg=7.0,
)  # fmt: skip
FULL = (FLUX, WAN, WAN_SMALL, SDXL)
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


class _Shapes(comfy.ops.disable_weight_init):
    """Core's layers, with weights from the start: with dynamic VRAM they get them only from a state dict."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            torch.nn.Linear._load_from_state_dict(self, *args, **kwargs)


def shapes(work: Workload) -> Weights:
    """Return the state dict of the diffusion model without values."""
    config = getattr(comfy.supported_models, work.config)(dict(work.unet))
    config.set_inference_dtype(torch.bfloat16, None)
    config.custom_operations = _Shapes
    return config.get_model({}, "", device="meta").diffusion_model.state_dict()


def random_weights(work: Workload) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and values in bf16 on the device that samples; matrices keep the size of what they multiply."""
    device = comfy.model_management.get_torch_device()
    draw = torch.Generator(device).manual_seed(1)
    for name, shape in shapes(work).items():
        if shape.ndim > 1:
            values = torch.randn(shape.shape, generator=draw, device=device, dtype=torch.bfloat16)
            yield name, values.mul_(shape[0].numel() ** -0.5)
        else:
            value = float(not name.endswith("bias"))
            yield name, torch.full(shape.shape, value, device=device, dtype=torch.bfloat16)


def host_weights(work: Workload, quantised: bool) -> Weights:
    """Return the weights as a loader reads them from a file: in the host's memory, in bf16 or scaled fp8.

    Each is quantised by itself on the device, as Load Diffusion Model+ does while it loads.
    """
    if not quantised:
        return {name: tensor.cpu() for name, tensor in random_weights(work)}
    precision, empty = precisions.find("fp8 fast"), shapes(work)
    layers, blocks = linear_layers(empty, getattr(comfy.supported_models, work.config)(dict(work.unet)))
    chosen = choose(layers.values(), blocks, "auto")
    result: Weights = {}
    for name, tensor in random_weights(work):
        fits = all(side % precision.multiple == 0 for side in tensor.shape)
        small = {name: tensor}
        if layers.get(name) in chosen and fits:
            small = quantize(name, tensor, largest(name, tensor), precision)
        result.update((key, value.cpu()) for key, value in small.items())
    return result


def load(precision: str, weights: Weights, disable_dynamic: bool = False) -> ModelPatcher:
    """Return the model of `weights` in "bf16", "fp8 core" (core's fp8_e4m3fn_fast) or a precision of Load Diffusion
    Model+, which needs quantised ones. Nodes that want it without dynamic VRAM find out how to load it again."""
    wanted, options = dict(weights), {}
    rowwise = False
    if precision == "bf16":
        options["dtype"] = torch.bfloat16
    elif precision == CORE_FP8:
        options |= {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True}
    else:
        multiply_in_full(wanted, precisions.find(precision).storage_only)
        rowwise = precisions.find(precision).rowwise_activations
    model = comfy.sd.load_diffusion_model_state_dict(wanted, model_options=options, disable_dynamic=disable_dynamic)
    if rowwise:
        use_rowwise_activations(model.model.diffusion_model)
    model.cached_patcher_init = (load, (precision, weights))
    return model


class Models:
    """The model in use. Another one of the same weights shares them; those of before are freed first."""

    def __init__(self) -> None:
        self.model: ModelPatcher | None = None
        self.weights: Weights = {}
        self.key = self.kind = None

    def get(self, work: Workload, precision: str) -> ModelPatcher:
        """Return the model of `work` in this precision."""
        if self.key != (work.name, precision):
            self.model = self.key = None
            if not self.has(work, precision):
                self.weights = {}
            free()
            torch._dynamo.reset()
            if not self.has(work, precision):
                self.weights, self.kind = host_weights(work, _quantised(precision)), (work.name, _quantised(precision))
            self.model, self.key = load(precision, self.weights), (work.name, precision)
        return self.model

    def has(self, work: Workload, precision: str) -> bool:
        """Whether the weights for it are there."""
        return bool(self.weights) and self.kind == (work.name, _quantised(precision))


def _quantised(precision: str) -> bool:
    return precision not in ("bf16", CORE_FP8)


def free() -> None:
    """Give back what no model holds any more."""
    comfy.model_management.cleanup_models()
    gc.collect()
    comfy.model_management.cleanup_models()
    comfy.model_management.soft_empty_cache()


def sample(work: Workload, model: ModelPatcher, steps: int = 0, callback: Callable | None = None) -> torch.Tensor:
    """Run core's KSampler once, always with the same noise and conditioning; return the latent.

    `steps` in place of the workload's own; `callback` is core's, called after each call of the model.
    """
    draw = torch.Generator().manual_seed(2)
    text = torch.randn(2, work.text_tokens, work.text_width, generator=draw)
    extra = {"pooled_output": torch.randn(1, work.pooled, generator=draw), "guidance": 3.5} if work.pooled else {}
    positive, negative = ([[part, extra]] for part in text.split(1))
    latent = torch.zeros(work.latent)
    noise = comfy.sample.prepare_noise(latent, 3)
    arguments = (steps or work.steps, work.cfg, "euler", "simple", positive, negative, latent)
    try:
        return comfy.sample.sample(model, noise, *arguments, callback=callback, seed=3, disable_pbar=True)
    finally:
        end_node()
