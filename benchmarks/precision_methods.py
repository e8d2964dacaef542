"""The ways to load a model that the precision benchmark compares, by the name in its table."""

import comfy.ops
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS
from velocity_nodes.acceleration.precision.load_quantized import LoadConfig, load_diffusion_model
from velocity_nodes.acceleration.precision.precisions import PRECISIONS

from .precision_targets import CORE_FAST

REFERENCE = "bf16"
CORE = "core fp8_e4m3fn"

# What core's Load Diffusion Model sets for its weight_dtype. On a CPU it would leave the fast arithmetic out, so it is
# asked for by its class: rounding both sides to fp8 gives the same error there as on tensor cores.
_CORE_OPTIONS = {
    REFERENCE: {"dtype": torch.bfloat16},
    CORE: {"dtype": torch.float8_e4m3fn},
    CORE_FAST: {"dtype": torch.float8_e4m3fn, "custom_operations": comfy.ops.fp8_ops},
}
_OURS = {f"ours {precision.name}": precision for precision in PRECISIONS if precision.format}


def methods() -> list[str]:
    """Return the names of all that this ComfyUI can load: the reference, core's own, ours."""
    return [*_CORE_OPTIONS, *(name for name, precision in _OURS.items() if precision.format in QUANT_ALGOS)]


def load(method: str, path: str) -> ModelPatcher:
    """Load the diffusion model in the file at `path`; KeyError for a name that is none of `methods`."""
    if method in _CORE_OPTIONS:
        return comfy.sd.load_diffusion_model(path, model_options=dict(_CORE_OPTIONS[method]))
    return load_diffusion_model(path, LoadConfig(_OURS[method].name))


def is_ours(method: str) -> bool:
    """Whether this pack's loader does it."""
    return method in _OURS
