"""What a graph put on a model and a file of its weights can't hold.

Patches of weights, ordinary LoRAs for example, are merged when a model is saved. Weights that act only while the model
samples would be missing in the file without a word: that is an error. Other changes of what the model computes belong
to a workflow and not to a file, and the log names them.
"""

import logging
from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

log = logging.getLogger("velocity")

FASTER = ("velocity_", "torch.compile", "easycache")  # beginnings of the keys of wrappers that change no output


def check_savable(model: ModelPatcher) -> None:
    """Raise ValueError when there are weights on the model that its state dict will not hold, naming them."""
    weights = [f"injection {key}" for key, injections in model.injections.items() if injections]
    weights += [f"adapter of {key}" for key in model.weight_wrapper_patches]
    weights += ["LoRA hooks"] if model.hook_patches else []
    if weights:
        raise ValueError(
            f"the file would lack what acts on this model only while it samples ({', '.join(weights)}): in place of a "
            "bypass LoRA or a LoRA hook take Load LoRA, which is merged, or connect Save Quantized Model before it"
        )
    others = list(dict.fromkeys(_beside_the_weights(model)))
    if others:
        log.warning(
            "Save Quantized Model: the file holds the weights, and not %s: add those nodes behind its loader",
            ", ".join(others),
        )


def _beside_the_weights(model: ModelPatcher) -> Iterator[str]:
    """Yield names of what changes the model's output; the settings of guidance and noise schedule are no part of it."""
    options = model.model_options["transformer_options"]
    yield from (f"the object {name}" for name in model.object_patches if name.startswith("diffusion_model."))
    for kind in ("patches", "patches_replace"):
        yield from (f"the patch {name}" for name, found in options.get(kind, {}).items() if found)
    if "model_function_wrapper" in model.model_options:
        yield "the function around the model"
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for wrappers in (model.wrappers, options.get("wrappers", {})):
            keys = (str(key) for key, functions in wrappers.get(kind, {}).items() if functions)
            yield from (f"the wrapper {key}" for key in keys if not key.startswith(FASTER))
