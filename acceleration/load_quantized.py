"""Loads a diffusion model and quantises it on the way, so that no second model is ever in memory.

The weights go one by one from the file through `quantize.py` into a state dict as core's quantised checkpoints have it;
core's own loader makes the model of that. So LoRA, offloading, saving and other nodes are core's. What is quantised
already is loaded by core as it is, and never quantised twice.
"""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .checkpoint_file import CheckpointFile
from .diffusion_file import DiffusionFile, inspect
from .precisions import Precision, check_available, find
from .quantize import choose, linear_layers, needed_to_recognise, quantize

log = logging.getLogger("velocity")

COMPUTE_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DEVICES = ("default", "cpu")
# Tensors of full checkpoints, beside the diffusion model, that tell core which kind of model it is.
MARKERS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_*", "conditioner.conditioners.*")


@dataclass(frozen=True)
class LoadConfig:
    """What the user chose: a name of `precisions.NAMES`, layers to keep (`quantize.choose`), dtype and device."""

    precision: str = "as stored"
    keep_high_precision: str = "auto"
    compute_dtype: str = "auto"
    device: str = "default"


def load_diffusion_model(path: str, config: LoadConfig, disable_dynamic: bool = False) -> ModelPatcher:
    """Load the diffusion model in the file at `path`.

    Raises ValueError, before anything is in memory for good, for a damaged file or one of another kind, a precision
    that this ComfyUI or GPU lacks, a file that is quantised already, weights that are no numbers, and a pattern of
    layers that matches nothing.
    """
    precision = find(config.precision)
    options = _model_options(config)
    check_available(precision, options["load_device"])
    source = inspect(path)
    _check_not_twice(source, precision)
    if source.formats and precision.format:
        model = _load_prequantized(source, precision, options, disable_dynamic)
    elif precision.format:
        model = _load_quantizing(source, precision, config.keep_high_precision, options, disable_dynamic)
    else:
        model = _load_with_core(source, precision, options, disable_dynamic)
    if precision.rowwise_activations:
        from .rowwise_fp8 import use_rowwise_activations

        use_rowwise_activations(model.model.diffusion_model)
    _compute_in(model, COMPUTE_DTYPES[config.compute_dtype], quantized=bool(precision.format or source.formats))
    model.cached_patcher_init = (load_diffusion_model, (path, config))
    return model


def _model_options(config: LoadConfig) -> dict[str, Any]:
    import comfy.model_management as management

    if config.device == "cpu":
        return {"load_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    return {"load_device": management.get_torch_device()}


def _check_not_twice(source: DiffusionFile, precision: Precision) -> None:
    if not source.formats or precision.name == "as stored":
        return
    if precision.format == "float8_e4m3fn" and source.formats == {precision.format}:
        return
    raise ValueError(
        f"{source.checkpoint.path} is quantised already ({', '.join(sorted(source.formats))}) and is never quantised "
        "twice; choose as stored, or the original file of the model in 16 bits"
    )


def _load_with_core(
    source: DiffusionFile, precision: Precision, options: dict[str, Any], disable_dynamic: bool
) -> ModelPatcher:
    """Load what needs no quantising. As stored is exactly core's; for another dtype the weights are looked at first."""
    import comfy.sd

    path = source.checkpoint.path
    if precision.dtype is not None:
        options = {**options, "dtype": precision.dtype}
        with _progress(len(source.shapes)) as step:
            for name in source.shapes:
                _check_numbers(name, source.take(name), precision.dtype)
                step()
    if source.is_full_checkpoint:
        return comfy.sd.load_checkpoint_guess_config(
            path, output_vae=False, output_clip=False, model_options=options, disable_dynamic=disable_dynamic
        )[0]
    return comfy.sd.load_diffusion_model(path, model_options=options, disable_dynamic=disable_dynamic)


def _load_prequantized(
    source: DiffusionFile, precision: Precision, options: dict[str, Any], disable_dynamic: bool
) -> ModelPatcher:
    """Load an fp8 checkpoint with its weights untouched; `precision`, not the file, says how they are multiplied."""
    import comfy.utils

    state_dict, metadata = comfy.utils.load_torch_file(source.checkpoint.path, return_metadata=True)
    state_dict, _ = comfy.utils.convert_old_quants(state_dict, "", metadata=dict(metadata or {}))
    if source.prefix:
        state_dict = comfy.utils.state_dict_prefix_replace(state_dict, {source.prefix: ""}, filter_keys=True)
        state_dict, _ = comfy.utils.convert_old_quants(state_dict, "", metadata={})
    for name, marker in list(state_dict.items()):
        if name.endswith(".comfy_quant"):
            marks = {**json.loads(marker.numpy().tobytes()), "full_precision_matrix_mult": precision.storage_only}
            state_dict[name] = torch.tensor(list(json.dumps(marks).encode()), dtype=torch.uint8)
    metadata = {key: value for key, value in (metadata or {}).items() if key != "_quantization_metadata"}
    return _make_model(source, state_dict, metadata, options, disable_dynamic)


def _load_quantizing(
    source: DiffusionFile, precision: Precision, keep: str, options: dict[str, Any], disable_dynamic: bool
) -> ModelPatcher:
    from comfy import model_detection

    metadata, shapes, model_config = source.checkpoint.metadata, source.shapes, source.model_config
    take, markers = source.take, _markers(source.checkpoint)
    if model_config is None:
        converted = _convert_diffusers(source)
        shapes = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in converted.items()}
        model_config = model_detection.model_config_from_unet(shapes, "", metadata=metadata)
        take = converted.pop
    layers, blocks = linear_layers({**shapes, **markers}, model_config)
    chosen = choose(layers.values(), blocks, keep)
    names = {
        name
        for name, layer in layers.items()
        if layer in chosen and all(side % precision.multiple == 0 for side in shapes[name].shape)
    }
    if precision.packed:
        names -= needed_to_recognise(names, shapes, metadata)
    state_dict = dict(markers)
    with _progress(len(shapes)) as step:
        for name in shapes:
            state_dict.update(_converted(name, take(name), precision if name in names else None, options))
            step()
    log.info("%s: %d of %d linear layers quantised", precision.name, len(names), len(layers))
    return _make_model(source, state_dict, metadata, options, disable_dynamic)


def _converted(
    name: str, tensor: torch.Tensor, precision: Precision | None, options: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return what the state dict holds for one tensor of the file; a copy, so that the file can be closed."""
    _check_numbers(name, tensor)
    if precision is None:
        return {name: tensor.clone()}
    return {key: value.cpu() for key, value in quantize(name, tensor.to(options["load_device"]), precision).items()}


def _convert_diffusers(source: DiffusionFile) -> dict[str, torch.Tensor]:
    """Return the weights by core's names. Core fuses some, which takes the memory of the model in 16 bits once."""
    from comfy import model_detection
    from comfy.utils import unet_to_diffusers

    weights = {name: source.take(name) for name in source.shapes}
    converted = model_detection.convert_diffusers_mmdit(weights, "")
    if converted is not None:
        return converted
    config = model_detection.model_config_from_diffusers_unet(weights)
    names = unet_to_diffusers(config.unet_config)
    return {names[name]: weights.pop(name) for name in names if name in weights}


def _markers(checkpoint: CheckpointFile) -> dict[str, torch.Tensor]:
    names = [name for name in checkpoint.shapes if any(fnmatchcase(name, marker) for marker in MARKERS)]
    return {name: checkpoint.take(name).clone() for name in names}


def _make_model(
    source: DiffusionFile,
    state_dict: dict[str, torch.Tensor],
    metadata: dict[str, str],
    options: dict[str, Any],
    disable_dynamic: bool,
) -> ModelPatcher:
    import comfy.sd

    model = comfy.sd.load_diffusion_model_state_dict(
        state_dict, model_options=options, metadata=metadata, disable_dynamic=disable_dynamic
    )
    if model is None:
        raise ValueError(f"ComfyUI does not recognise the model in {source.checkpoint.path}; choose as stored")
    return model


def _check_numbers(name: str, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> None:
    """Raise ValueError when a float tensor holds NaN or infinity, or would in `dtype`."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    least, most = (float(end) for end in torch.aminmax(tensor))
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(
            f"{name} holds NaN or infinite weights; the file is damaged: download it again, or ask its author"
        )
    if dtype is not None and max(-least, most) > torch.finfo(dtype).max:
        raise ValueError(f"{name} holds weights beyond the range of {dtype}; choose bf16 instead")


def _compute_in(model: ModelPatcher, dtype: torch.dtype | None, quantized: bool) -> None:
    """Have core cast to `dtype`. Forced casts would switch core's quantised matrix multiplications off."""
    if dtype is None:
        return
    if quantized:
        model.add_object_patch("manual_cast_dtype", dtype)
    else:
        model.set_model_compute_dtype(dtype)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Yield a function for each step done; it shows in ComfyUI and raises there when the user interrupts."""
    import comfy.model_management as management
    from comfy.utils import ProgressBar

    bar = ProgressBar(total)

    def step() -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update(1)

    yield step
