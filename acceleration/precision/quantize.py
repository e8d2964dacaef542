"""Which layers of a diffusion model are quantised, and the quantisation of one weight into core's own layouts.

The arithmetic and the layouts are core's (`comfy.quant_ops`, comfy-kitchen); here is only the choice. A layer qualifies
when core builds it as a Linear of its mixed precision operations, so that its weight may be a `QuantizedTensor`.
"""

import json
import math
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ..blocks.architectures import ARCHITECTURES, UNETS, class_paths
from .precisions import Precision

UNET_STACKS = ("input_blocks", "middle_block", "output_blocks")
# Numbers quantised at a time. They and what comes of them in between stay in a CPU's cache, where core's plain code is
# two to four times as fast; a GPU has enough to do with them.
PART, PART_GPU = 1 << 17, 1 << 24
TILE = 128  # rows of block scales that core's layouts interleave
LARGEST = {"float8_e4m3fn": 448.0, "nvfp4": 448.0 * 6.0}  # of the formats with a scale for the whole weight
ROTATIONS = (256, 64, 16)  # group sizes of core's rotation, powers of four


def linear_layers(shapes: dict[str, torch.Tensor], model_config: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return {name of the weight in the file: name of the layer} of each Linear, and the prefixes of its blocks.

    `shapes` are stand-ins for the weights. Core builds the model once more later; here it has no weights in it.
    """
    import comfy.ops

    operations = comfy.ops.mixed_precision_ops()
    config = type(model_config)(model_config.unet_config)  # core marks the one that it builds a model of
    config.set_inference_dtype(torch.bfloat16, None)
    config.custom_operations = operations
    model = config.get_model(dict(shapes), "").diffusion_model
    in_file = {id(tensor): name for name, tensor in shapes.items()}
    as_in_model = config.process_unet_state_dict(dict(shapes))  # renames keep the tensor; what core splits is left out
    layers = {}
    for layer, module in model.named_modules():
        name = in_file.get(id(as_in_model.get(f"{layer}.weight")))
        if isinstance(module, operations.Linear) and name is not None and shapes[name].dim() == 2:
            layers[name] = layer
    return layers, block_prefixes(model)


def block_prefixes(diffusion_model: nn.Module) -> tuple[str, ...]:
    """Return how the names of the layers inside the blocks begin; nothing for a model that is in no table."""
    stacks = {row.model_class: tuple(stack.attribute for stack in row.stacks) for row in ARCHITECTURES}
    stacks.update((path, UNET_STACKS) for path in UNETS)
    found = next((stacks[path] for path in class_paths(diffusion_model) if path in stacks), ())
    return tuple(f"{attribute}." for attribute in found)


def choose(layers: Iterable[str], blocks: tuple[str, ...], keep: str) -> set[str]:
    """Return those of `layers` that are quantised.

    `keep` lists what is not: auto (all that is outside of the blocks: embedders, first and last layers), none, and
    patterns such as `*.img_mlp.*`, separated by commas. ValueError for an empty list or a pattern without a match.
    """
    layers = list(layers)
    patterns = [pattern.strip() for pattern in keep.split(",") if pattern.strip()]
    if not patterns:
        raise ValueError(f"keep_high_precision is empty; write auto, none, or patterns of names. {_examples(layers)}")
    chosen = set(layers)
    for pattern in patterns:
        if pattern == "auto" and not blocks:
            raise ValueError(
                "Velocity does not know where the blocks of this model are, so auto means nothing; set "
                f"keep_high_precision to none, or to patterns of names. {_examples(layers)}"
            )
        if pattern == "auto":
            matches = {layer for layer in layers if not layer.startswith(blocks)}
        elif pattern == "none":
            continue
        else:
            matches = {layer for layer in layers if fnmatchcase(layer, pattern)}
            if not matches:
                raise ValueError(f"keep_high_precision: no layer is named like {pattern!r}. {_examples(layers)}")
        chosen -= matches
    return chosen


def needed_to_recognise(names: set[str], shapes: dict[str, torch.Tensor], metadata: dict[str, str]) -> set[str]:
    """Return those weights among `names` whose shape tells core which model it is, so that they must not be packed.

    Core reads the sizes of a model off its weights: the width of the text off the first cross attention, for example.
    """
    from comfy.model_detection import model_config_from_unet

    def recognised(packed: list[str]) -> bool:
        halves = {name: shapes[name][:, ::2] for name in packed}
        found = model_config_from_unet({**shapes, **halves}, "", metadata=metadata)
        return found is not None and found.unet_config == known

    def culprits(group: list[str]) -> set[str]:
        if not group or recognised(group):
            return set()
        if len(group) == 1:
            return set(group)
        middle = len(group) // 2
        return culprits(group[:middle]) | culprits(group[middle:])

    known = model_config_from_unet(shapes, "", metadata=metadata).unet_config
    return culprits(sorted(names))


def largest(name: str, weight: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the largest magnitude in a weight, float32 (), 0 for one that is empty or of whole numbers.

    ValueError when it holds NaN or infinity; with `dtype`, to which it was converted, the cause may be that.
    """
    if not weight.is_floating_point() or not weight.numel():
        return torch.zeros(())
    least, most = torch.aminmax(weight)
    most = torch.maximum(-least, most).float()
    value = float(most)
    if math.isinf(value) and dtype == torch.float16:
        raise ValueError(f"{name} holds weights beyond the range of {dtype}; choose bf16 instead")
    if not math.isfinite(value):
        raise ValueError(
            f"{name} holds NaN or infinite weights; the file is damaged: download it again, or ask its author"
        )
    return most


def quantize(name: str, weight: torch.Tensor, most: torch.Tensor, precision: Precision) -> dict[str, torch.Tensor]:
    """Return what a checkpoint of core holds for the layer of `weight` (out, in), in place of its weight.

    `name` ends with ".weight"; the weight is on the device that does the work, `most` is its `largest` magnitude.
    """
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    layout = QUANT_ALGOS[precision.format]["comfy_tensor_layout"]
    marks: dict[str, Any] = {"format": precision.format}
    if precision.storage_only:
        marks["full_precision_matrix_mult"] = True
    options: dict[str, Any] = {}
    if precision.format in LARGEST:
        options["scale"] = torch.where(most > 0, most / LARGEST[precision.format], 1.0)
    elif precision.format == "int8_tensorwise":  # a scale for each row
        options["per_channel"] = True
        group = next((size for size in ROTATIONS if weight.shape[1] % size == 0), None)
        if group is not None:  # spreads outliers over the group
            rotation = {"convrot": True, "convrot_groupsize": group}
            options.update(rotation)
            marks.update(rotation)
    tensors: dict[str, torch.Tensor] = {}
    rows = max(1, (PART if weight.device.type == "cpu" else PART_GPU) // weight.shape[1] // TILE) * TILE
    for start in reversed(range(0, len(weight), rows)):
        part = weight[start : start + rows].float()
        _put(tensors, QuantizedTensor.from_float(part, layout, **options).state_dict(name), start)
    marker = torch.tensor(list(json.dumps(marks).encode()), dtype=torch.uint8)
    return {**tensors, f"{name.removesuffix('weight')}comfy_quant": marker}


def _put(whole: dict[str, torch.Tensor], part: dict[str, torch.Tensor], start: int) -> None:
    """Put the rows from `start` into the whole tensors; a scale of the whole weight is the same in every part.

    The last rows come first: where they end, with the padding of block scales, the whole ends. The parts are not
    collected, as what is freed around a tensor that stays is not given back to the system.
    """
    for key, tensor in part.items():
        if key not in whole and tensor.dim() and start:
            whole[key] = tensor.new_empty(start + len(tensor), *tensor.shape[1:])
        if key not in whole:
            whole[key] = tensor
        elif tensor.dim():
            whole[key][start : start + len(tensor)] = tensor


def _examples(layers: list[str]) -> str:
    return f"Layers of this model are, for example: {', '.join(layers[:: max(1, len(layers) // 4)][:4])}"
