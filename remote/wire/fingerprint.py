"""What makes two ComfyUIs compute the same bits: versions, device, attention, and the flags that choose a dtype."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

DTYPE_FLAGS = (
    "force_fp32",
    "force_fp16",
    "fp32_unet",
    "fp64_unet",
    "bf16_unet",
    "fp16_unet",
    "fp8_e4m3fn_unet",
    "fp8_e5m2_unet",
    "fp8_e8m0fnu_unet",
    "fp16_intermediates",
    "force_channels_last",
    "deterministic",
)
# Bring kernels of their own, which ComfyUI chooses by layer and device; None in a fingerprint where not installed.
KERNELS = ("comfy-kitchen", "comfy-aimdo", "triton", "sageattention", "flash-attn", "xformers")


def fingerprint() -> dict[str, Any]:
    """Return this process's fingerprint; two equal ones compute the same latent from the same model file."""
    import comfy.ldm.modules.attention
    import comfy.model_management
    import comfyui_version
    import torch
    from comfy.cli_args import args

    device = comfy.model_management.get_torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor()}"
    flags = [flag for flag in DTYPE_FLAGS if getattr(args, flag, False)]
    return {
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "device": name,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        **{package: version(package) for package in KERNELS},
        "dtypes": [*flags, *sorted(f"fast {feature}" for feature in map(str, getattr(args, "fast", None) or ()))],
    }


def fidelity(
    ours: dict[str, Any], theirs: dict[str, Any], our_models: dict[str, str | None], their_models: dict[str, str | None]
) -> tuple[str, str]:
    """Return `exact`, `close` or `unverified`, and why.

    The models are sha256 by file name, None where it is not known. `exact`: the same bits as here. `close`: the same
    weights, computed elsewhere. `unverified`: nobody compared the weights.
    """
    unknown = [name for name, value in their_models.items() if not value or not our_models.get(name)]
    others = [name for name in their_models if name not in unknown and our_models[name] != their_models[name]]
    if others:
        return "unverified", f"the endpoint's {', '.join(others)} is another file than yours of that name"
    if unknown:
        places = {name: "here" if not our_models.get(name) else "there" for name in unknown}
        missing = ", ".join(f"{name} has no hash {place} (yet)" for name, place in places.items())
        return "unverified", missing
    keys = [*ours, *(key for key in theirs if key not in ours)]  # a peer of another version may know fewer or more
    different = [f"{key} {theirs.get(key)} (here {ours.get(key)})" for key in keys if ours.get(key) != theirs.get(key)]
    return ("close", ", ".join(different)) if different else ("exact", "same weights, versions, device and attention")


def version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """Return the name of the CPU: which vector instructions it has changes the last bits."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
