"""Loads a diffusion model and quantises it on the way, so that no second model is ever in memory.

The weights go one by one from the file (`weight_stream.py`) into a state dict as core's quantised checkpoints have it;
core's own loader makes the model of that. So LoRA, offloading, saving and other nodes are core's. What is quantised
already is loaded by core as it is, and never quantised twice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .diffusion_file import DiffusionFile, inspect
from .other_nodes import serve_other_nodes
from .precisions import Precision, check_available, find
from .weight_stream import check_numbers, multiply_in_full, quantized_weights, stored_weights

COMPUTE_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DEVICES = ("default", "cpu")


@dataclass(frozen=True)
class LoadConfig:
    """What the user chose: a name of `precisions.NAMES`, layers to keep (`quantize.choose`), dtype and device."""

    precision: str = "as stored"
    keep_high_precision: str = "auto"
    compute_dtype: str = "auto"
    device: str = "default"


def load_diffusion_model(path: str, config: LoadConfig, disable_dynamic: bool = False) -> ModelPatcher:
    """Load the diffusion model in the file at `path`.

    Raises ValueError for a damaged file or one of another kind, a precision that this ComfyUI or GPU lacks, a file that
    is quantised already, weights that are no numbers, and a pattern of layers that matches nothing.
    """
    precision, compute_dtype = find(config.precision), COMPUTE_DTYPES[config.compute_dtype]
    options = _model_options(config)
    check_available(precision, options["load_device"])
    source = inspect(path)
    _check_not_twice(source, precision)
    if precision.format and not source.formats:
        devices = (options["load_device"], options["offload_device"])
        weights = quantized_weights(source, precision, config.keep_high_precision, *devices)
        model = _make_model(path, weights, source.checkpoint.metadata, options, disable_dynamic)
    else:
        model = _load_stored(source, precision, options, disable_dynamic)
    if precision.rowwise_activations:
        from .rowwise_fp8 import use_rowwise_activations

        use_rowwise_activations(model.model.diffusion_model, compute_dtype)
    quantized = bool(precision.format or source.formats)
    if quantized:
        serve_other_nodes(model)
    _compute_in(model, compute_dtype, quantized)
    model.cached_patcher_init = (load_diffusion_model, (path, config))
    return model


def _model_options(config: LoadConfig) -> dict[str, Any]:
    import comfy.model_management as management

    if config.device == "cpu":
        return {"load_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    return {"load_device": management.get_torch_device(), "offload_device": management.unet_offload_device()}


def _check_not_twice(source: DiffusionFile, precision: Precision) -> None:
    if not source.formats or precision.name == "as stored":
        return
    if precision.format == "float8_e4m3fn" and source.formats == {precision.format}:
        return  # the weights stay, and `precision` says how they are multiplied
    raise ValueError(
        f"{source.checkpoint.path} is quantised already ({', '.join(sorted(source.formats))}) and is never quantised "
        "twice; choose as stored, or the original file of the model in 16 bits"
    )


def _load_stored(
    source: DiffusionFile, precision: Precision, options: dict[str, Any], disable_dynamic: bool
) -> ModelPatcher:
    """Load what needs no quantising. As stored is exactly core's; in another dtype the weights are looked at."""
    import comfy.sd

    path = source.checkpoint.path
    if precision.dtype is not None:
        options = {**options, "dtype": precision.dtype}
    if not source.is_full_checkpoint and not precision.format:
        model = comfy.sd.load_diffusion_model(path, model_options=options, disable_dynamic=disable_dynamic)
    else:
        weights, metadata = stored_weights(source)
        if precision.format:
            multiply_in_full(weights, precision.storage_only)
        model = _make_model(path, weights, metadata, options, disable_dynamic)
    if precision.dtype is not None:
        check_numbers(model.model.diffusion_model, precision.dtype)
    return model


def _make_model(
    path: str,
    weights: dict[str, torch.Tensor],
    metadata: dict[str, str],
    options: dict[str, Any],
    disable_dynamic: bool,
) -> ModelPatcher:
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(
        weights, model_options=options, metadata=metadata, disable_dynamic=disable_dynamic
    )
    if model is None:
        raise ValueError(f"ComfyUI does not recognise the model in {path}; choose as stored")
    return model


def _compute_in(model: ModelPatcher, dtype: torch.dtype | None, quantized: bool) -> None:
    """Have core cast to `dtype`. Forced casts would switch core's quantised matrix multiplications off."""
    if dtype is None:
        return
    if quantized:
        model.add_object_patch("manual_cast_dtype", dtype)
    else:
        model.set_model_compute_dtype(dtype)
