"""The weights of a diffusion model on their way from the file to core: looked at, quantised, and never there twice."""

import ctypes
import json
import logging
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase

import torch

from .checkpoint_file import stand_in
from .diffusion_file import DiffusionFile
from .precisions import Precision
from .quantize import choose, largest, linear_layers, needed_to_recognise, quantize

log = logging.getLogger("velocity")
StateDict = dict[str, torch.Tensor]

# Tensors of full checkpoints, beside the diffusion model, that tell core which kind of model it is.
MARKERS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_*", "conditioner.conditioners.*")
GIVE_BACK_EVERY = 16  # tensors, some milliseconds each time
WORKSPACE = 1 << 30  # bytes


def check_numbers(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Raise ValueError when a weight of a model that was loaded as `dtype` is no number, or is none in `dtype`."""
    for name, weight in model.state_dict().items():
        largest(name, weight, dtype)


def quantized_weights(
    source: DiffusionFile, precision: Precision, keep: str, device: torch.device, home: torch.device
) -> StateDict:
    """Return what core's quantised checkpoints hold for this model, small weights at `home`; `device` does the work.

    `keep` is explained at `quantize.choose`. ValueError for a weight that is no number, naming it.
    """
    import comfy.model_management as management
    from comfy.model_detection import model_config_from_unet

    metadata, shapes, model_config, tensors = (
        source.checkpoint.metadata,
        source.shapes,
        source.model_config,
        source.read(),
    )
    if model_config is None:
        converted = _convert_diffusers(source)
        shapes = {name: stand_in(tensor) for name, tensor in converted.items()}
        model_config = model_config_from_unet(shapes, "", metadata=metadata)
        tensors = ((name, converted.pop(name)) for name in shapes)
    markers = source.checkpoint.read(_markers(source.checkpoint.shapes))
    state_dict = {name: tensor.clone() for name, tensor in markers}
    layers, blocks = linear_layers({**shapes, **state_dict}, model_config)
    chosen = choose(layers.values(), blocks, keep)
    fits = {name for name in layers if all(side % precision.multiple == 0 for side in shapes[name].shape)}
    names = {name for name in fits if layers[name] in chosen}
    if precision.packed:
        names -= needed_to_recognise(names, shapes, metadata)
    management.free_memory(_room(shapes, device == home), device)
    step = _progress(len(shapes))
    for number, (name, tensor) in enumerate(tensors):
        weight = tensor.to(device)
        most = largest(name, weight)
        if name in names:
            small = quantize(name, weight, most, precision)
            state_dict.update((key, value.to(home)) for key, value in small.items())
        else:
            state_dict[name] = tensor.clone()
        if number % GIVE_BACK_EVERY == 0:
            _give_back_freed_memory()
        step()
    log.info("%s: %d of %d linear layers quantised", precision.name, len(names), len(layers))
    return state_dict


def stored_weights(source: DiffusionFile) -> tuple[StateDict, dict[str, str]]:
    """Return the weights as core reads them, without the prefix and with core's own marks of what is quantised, and
    the rest of the metadata."""
    from comfy.utils import convert_old_quants, load_torch_file, state_dict_prefix_replace

    everything, metadata = load_torch_file(source.checkpoint.path, return_metadata=True)
    everything, metadata = convert_old_quants(everything, "", metadata=dict(metadata or {}))
    metadata.pop("_quantization_metadata", None)
    markers = {name: everything[name] for name in _markers(everything)}
    if not source.prefix:
        return everything, metadata
    weights = state_dict_prefix_replace(everything, {source.prefix: ""}, filter_keys=True)
    weights, _ = convert_old_quants(weights, "", metadata={})
    return {**weights, **markers}, metadata


def multiply_in_full(state_dict: StateDict, in_full: bool) -> None:
    """Say in core's marks whether quantised layers multiply in the compute dtype, or in their own format."""
    for name, marker in list(state_dict.items()):
        if name.endswith(".comfy_quant"):
            marks = {**json.loads(marker.numpy().tobytes()), "full_precision_matrix_mult": in_full}
            state_dict[name] = torch.tensor(list(json.dumps(marks).encode()), dtype=torch.uint8)


def _markers(names: StateDict) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, marker) for marker in MARKERS)]


def _convert_diffusers(source: DiffusionFile) -> StateDict:
    """Return the weights by core's names. Core fuses some, which takes the memory of the model in 16 bits once."""
    from comfy import model_detection
    from comfy.utils import unet_to_diffusers

    everything = source.checkpoint.whole()
    weights = {name: everything.pop(source.prefix + name) for name in source.shapes}
    converted = model_detection.convert_diffusers_mmdit(weights, "")
    if converted is not None:
        return converted
    names = unet_to_diffusers(model_detection.model_config_from_diffusers_unet(weights).unet_config)
    return {names[name]: weights.pop(name) for name in names if name in weights}


def _room(shapes: StateDict, stays: bool) -> int:
    """Bytes that the work takes: its largest weight, twice, and the numbers in between; all of them if they stay."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in shapes.values()]
    return 2 * max(sizes) + WORKSPACE + (sum(sizes) if stays else 0)


def _give_back_freed_memory() -> None:
    """Have glibc return to the system what was temporary; on a CPU it keeps as much as a second model otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries on Linux have none
        if trim is not None:
            trim(0)


def _progress(total: int) -> Callable[[], None]:
    """Return a function to call for each step done; it shows in ComfyUI and raises there when the user interrupts."""
    import comfy.model_management as management
    from comfy.utils import ProgressBar

    bar = ProgressBar(total)

    def step() -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update(1)

    return step
