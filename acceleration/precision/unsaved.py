"""What acts on a model only while it samples, so that a file of its weights can't hold it.

Patches of weights, LoRAs for example, are merged when a model is saved. The rest that a graph puts on a model would be
missing in the file without a word: that is an error. What only makes a model faster, and the settings of its noise
schedule, which belong to the sampling, may stay.
"""

from collections.abc import Iterator

from comfy.model_patcher import ModelPatcher

FASTER = ("velocity_", "torch.compile", "easycache", "lazycache")  # beginnings of the keys of wrappers
SETTINGS = {"model_sampling", "latent_format", "manual_cast_dtype"}  # object patches
OPTIONS = (
    "model_function_wrapper", "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function", "denoise_mask_function", "context_handler",
)  # fmt: skip


def check_savable(model: ModelPatcher) -> None:
    """Raise ValueError when the model's weights, patches merged, are not all that makes its output, naming the rest.

    The model is loaded, so that nothing that another graph put on it is still there.
    """
    found = sorted(set(_injected(model)) | set(_options(model)) | set(_forwards(model)))
    if found:
        raise ValueError(
            f"a file holds the weights of this {type(model.model.diffusion_model).__name__}, and not what acts on it "
            f"while it samples ({', '.join(found)}): connect Save Quantized Model before the nodes that add it, or "
            "take Load LoRA, which is merged, in place of a bypass LoRA or a LoRA hook"
        )


def _injected(model: ModelPatcher) -> Iterator[str]:
    yield from (f"injection {key}" for key, injections in model.injections.items() if injections)
    yield from (f"hook {hook.hook_id or 'of weights'}" for hook in model.hook_patches)
    yield from (f"weight wrapper {key}" for key in model.weight_wrapper_patches)
    yield from (f"object patch {name}" for name in model.object_patches if name not in SETTINGS)


def _options(model: ModelPatcher) -> Iterator[str]:
    options, transformer = model.model_options, model.model_options["transformer_options"]
    yield from (f"option {name}" for name in OPTIONS if options.get(name))
    yield from (f"patch {name}" for kind in ("patches", "patches_replace") for name in transformer.get(kind, ()))
    if "rope_options" in transformer:
        yield "option rope_options"
    for wrappers in (model.wrappers, transformer.get("wrappers", {})):
        keys = (key for kind in wrappers.values() for key, functions in kind.items() if functions)
        yield from (f"wrapper {key}" for key in keys if not str(key).startswith(FASTER))


def _forwards(model: ModelPatcher) -> Iterator[str]:
    """Methods that another pack replaced on the modules themselves."""
    for name, module in model.model.named_modules():
        if "forward" in vars(module):
            yield f"another forward of {name}"
