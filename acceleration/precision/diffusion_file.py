"""What is in a model file: where its diffusion model is, in which layout, and whether it is quantised already.

Only names, shapes and a few bytes are read. Which model it is says core's own `comfy.model_detection`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .checkpoint_file import CheckpointFile

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_HINTS = (
    (("lora_", ".lora", "lokr_", "loha_", "hada_w"), "a LoRA: put it into models/loras and use a LoRA loader"),
    (("decoder.conv_in", "encoder.conv_in", "decoder.middle"), "a VAE: put it into models/vae and use Load VAE"),
    (
        ("text_model.", "encoder.block.", "embed_tokens", "token_embedding", "shared.weight"),
        "a text encoder: put it into models/text_encoders and use Load CLIP",
    ),
)


@dataclass(frozen=True)
class DiffusionFile:
    """`prefix` stands before the names of the diffusion model's tensors. `shapes` are those without it, as stand-ins.

    `model_config` is core's for them, None where the file has the layout of diffusers, which core must convert first.
    `formats` are core's names of the quantised formats in it, "raw float8" for unscaled weights; empty when there is
    none.
    """

    checkpoint: CheckpointFile
    prefix: str
    shapes: dict[str, torch.Tensor]
    model_config: Any
    formats: frozenset[str]

    @property
    def is_full_checkpoint(self) -> bool:
        """Whether there is more than a diffusion model in it (VAE, text encoders)."""
        return len(self.shapes) < len(self.checkpoint.shapes) and self.prefix == "model.diffusion_model."

    def read(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the diffusion model's tensors as `CheckpointFile.read` does, by their names without the prefix."""
        tensors = self.checkpoint.read(self.prefix + name for name in self.shapes)
        return ((name.removeprefix(self.prefix), tensor) for name, tensor in tensors)


def inspect(path: str) -> DiffusionFile:
    """Say what is in the file at `path`. ValueError for a damaged file or one without a diffusion model."""
    from comfy import model_detection
    from comfy.utils import state_dict_prefix_replace

    checkpoint = CheckpointFile(path)
    prefix = model_detection.unet_prefix_from_state_dict(checkpoint.shapes)
    shapes = state_dict_prefix_replace(dict(checkpoint.shapes), {prefix: ""}, filter_keys=True)
    if not shapes:
        prefix, shapes = "", dict(checkpoint.shapes)
    model_config = model_detection.model_config_from_unet(shapes, "", metadata=checkpoint.metadata)
    if model_config is None and not _is_diffusers(shapes):
        raise ValueError(f"{path} holds no diffusion model that this ComfyUI knows; {_hint(shapes)}")
    return DiffusionFile(checkpoint, prefix, shapes, model_config, _formats(checkpoint))


def _is_diffusers(shapes: dict[str, torch.Tensor]) -> bool:
    """Whether core can convert it. Core's conversion writes into what it is given, hence the meta tensors."""
    from comfy import model_detection

    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in shapes.items()}
    return (
        model_detection.convert_diffusers_mmdit(dict(meta), "") is not None
        or model_detection.model_config_from_diffusers_unet(meta) is not None
    )


def _hint(shapes: dict[str, torch.Tensor]) -> str:
    for parts, hint in _HINTS:
        if any(part in name for name in shapes for part in parts):
            return f"it looks like {hint}"
    names = ", ".join(list(shapes)[:3])
    return (
        f"its tensors are named {names or '(it has none)'}; choose a diffusion model, or update ComfyUI for a new one"
    )


def _formats(checkpoint: CheckpointFile) -> frozenset[str]:
    """The quantised formats in a file, by any of the marks that core reads (`comfy.utils.convert_old_quants`)."""
    if "_quantization_metadata" in checkpoint.metadata:
        layers = json.loads(checkpoint.metadata["_quantization_metadata"])["layers"]
        return frozenset(layer["format"] for layer in layers.values())
    marks = [name for name in checkpoint.shapes if name.endswith(".comfy_quant")]
    if marks:
        return frozenset(json.loads(mark.numpy().tobytes())["format"] for _, mark in checkpoint.read(marks))
    if any(name.rpartition(".")[2] == "scaled_fp8" for name in checkpoint.shapes):
        return frozenset({"float8_e4m3fn"})
    if any(tensor.dtype in FLOAT8 for tensor in checkpoint.shapes.values()):
        return frozenset({"raw float8"})
    return frozenset()
