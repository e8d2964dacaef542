"""The precisions that Load Diffusion Model+ offers: data, and the one sentence for each that cannot be had here.

Formats and layouts are those of core's `comfy.quant_ops.QUANT_ALGOS` (see its QUANTIZATION.md). Measured on the trained
tiny Flux, relative L2 error of one model call: core's fp8_e4m3fn_fast 0.080, core's fp8_e4m3fn 0.052, fp8 scaled 0.015,
fp8 fast 0.026, mxfp8 0.016, int8 0.007, nvfp4 0.057 (benchmarks/results/precision.md).
"""

import logging
from dataclasses import dataclass

import torch

log = logging.getLogger("velocity")


@dataclass(frozen=True)
class Precision:
    """One choice of the loader.

    `format` is core's name of the layout ("": weights are not quantised, `dtype` says what they become). `supported_by`
    names the function of `comfy.model_management` that tells whether a GPU has tensor cores for it, where the choice
    makes no sense without; `needs` says the same in words. With `storage_only` the matrices are multiplied in the
    compute dtype. Layers whose sides are no multiple of `multiple` stay as they are. With `packed` two weights share a
    byte, so the stored shape is another.
    """

    name: str
    format: str = ""
    dtype: torch.dtype | None = None
    storage_only: bool = False
    rowwise_activations: bool = False
    multiple: int = 1
    packed: bool = False
    supported_by: str = ""
    needs: str = ""


_ADA = "an NVIDIA GPU of the RTX 40 series (Ada), Hopper or newer"
_BLACKWELL = "an NVIDIA GPU of the RTX 50 series (Blackwell) or newer"

PRECISIONS: tuple[Precision, ...] = (
    Precision("as stored"),
    Precision("bf16", dtype=torch.bfloat16),
    Precision("fp16", dtype=torch.float16),
    Precision("fp8 scaled", "float8_e4m3fn", storage_only=True, multiple=16),
    Precision(
        "fp8 fast", "float8_e4m3fn", rowwise_activations=True, multiple=16,
        supported_by="supports_fp8_compute", needs=_ADA,
    ),
    Precision("mxfp8", "mxfp8", multiple=32, supported_by="supports_mxfp8_compute", needs=_BLACKWELL),
    Precision(
        "nvfp4", "nvfp4", multiple=16, packed=True, supported_by="supports_nvfp4_compute", needs=_BLACKWELL,
    ),
    Precision("int8", "int8_tensorwise", multiple=16),
)  # fmt: skip
NAMES = tuple(precision.name for precision in PRECISIONS)


def find(name: str) -> Precision:
    """Return the precision called `name`; ValueError lists the names there are."""
    for precision in PRECISIONS:
        if precision.name == name:
            return precision
    raise ValueError(f"there is no precision {name!r}; choose one of: {', '.join(NAMES)}")


def check_available(precision: Precision, device: torch.device) -> None:
    """Raise ValueError when this ComfyUI or the GPU `device` lacks the precision. A CPU emulates each of them."""
    import comfy.model_management as management
    from comfy.quant_ops import QUANT_ALGOS

    if precision.format and precision.format not in QUANT_ALGOS:
        raise ValueError(
            f"this ComfyUI has no {precision.name} ({precision.format}); update ComfyUI and its requirements, or "
            "choose fp8 scaled"
        )
    if not precision.supported_by:
        return
    if management.is_device_cpu(device):
        log.info("%s: this CPU only emulates it, which is slower than bf16", precision.name)
    elif not getattr(management, precision.supported_by)(device):
        raise ValueError(
            f"{precision.name} needs {precision.needs}, and this is {management.get_torch_device_name(device)}; "
            "choose fp8 scaled, which halves the memory on any GPU, or int8"
        )
