"""Writes a quantised model as a checkpoint that a ComfyUI without this pack loads to the same output.

The tensors are those that core's own Save Model writes, LoRAs merged; the header names the quantised layers the way
core's QUANTIZATION.md describes. The file gets its name when it is complete, so a killed save leaves no half model.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .unsaved import check_savable

SUFFIX = ".safetensors"
FORBIDDEN = '<>:"|?*'  # in file names on Windows; a file may be shared


def save_quantized(model: ModelPatcher, folder: str, filename: str, overwrite: bool = False) -> Path:
    """Save `model` as `filename` (with subfolders) below `folder` and return the path.

    Raises ValueError for a model that is not quantised, one with weights on it that are in no file (`unsaved.py`)
    and a name that leads out of the folder, FileExistsError where there is such a file and `overwrite` is off, OSError
    when the disk is full or the folder can't be written.
    """
    import comfy.model_management as management
    import comfy.sd

    target = _target(Path(folder), filename)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another filename, or switch overwrite on")
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": _layers(model)})}
    check_savable(model)
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        comfy.sd.save_checkpoint(str(part), model, metadata=metadata, extra_keys=_markers(model))
        management.throw_exception_if_processing_interrupted()
        os.replace(part, target)
    except Exception as error:
        if _is_disk_error(error):
            raise OSError(
                f"{target} could not be written ({error}); free space on the disk or make the folder writable, then "
                "run it again"
            ) from error
        raise
    finally:
        part.unlink(missing_ok=True)
    return target


def _target(folder: Path, filename: str) -> Path:
    """Return the path of the file, which is below `folder` on every system."""
    name = filename.strip().replace("\\", "/")
    parts = name.split("/")
    if (
        any(part.strip(". ") == "" for part in parts)
        or any(sign in name for sign in FORBIDDEN)
        or not name.isprintable()
    ):
        raise ValueError(
            f"the filename {filename!r} is no name below the output folder; write one such as "
            "diffusion_models/my_model, without drive, leading slash or .."
        )
    return folder.absolute().joinpath(*parts[:-1], parts[-1].removesuffix(SUFFIX) + SUFFIX)


def _layers(model: ModelPatcher) -> dict[str, dict[str, Any]]:
    """Return what core notes about each quantised layer, by its name in the file."""
    notes = {k: v for k, v in model.model.diffusion_model.state_dict().items() if k.endswith(".comfy_quant")}
    if not notes:
        raise ValueError(
            f"the weights of this {type(model.model.diffusion_model).__name__} are not quantised; load it with Load "
            "Diffusion Model+ and a precision such as fp8 scaled, or use ComfyUI's own Save Model"
        )
    in_file = model.model.model_config.process_unet_state_dict_for_saving(notes)
    return {key.removesuffix(".comfy_quant"): json.loads(note.numpy().tobytes()) for key, note in in_file.items()}


def _markers(model: ModelPatcher) -> dict[str, torch.Tensor]:
    """Return the tensors by which core tells the noise schedules of one architecture apart, as its Save Model does."""
    from comfy.model_sampling import V_PREDICTION, ModelSamplingContinuousEDM

    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, ModelSamplingContinuousEDM) and isinstance(sampling, V_PREDICTION):
        ends = {"sigma_max": sampling.sigma_max, "sigma_min": sampling.sigma_min}
        return {f"edm_vpred.{name}": torch.tensor(float(value)) for name, value in ends.items()}
    return {"ztsnr": torch.tensor([])} if getattr(sampling, "zsnr", False) else {}


def _is_disk_error(error: Exception) -> bool:
    from safetensors import SafetensorError

    return isinstance(error, OSError | SafetensorError)
