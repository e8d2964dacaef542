"""The model in core's classic memory management, for what dynamic VRAM can't serve: a model compiled as a whole.

Core makes such a model by running the loader once more. It is kept with the loaded model, so that another LoRA,
strength or setting of a node finds it: a loader that reads 24 GB must not run again for a slider.
"""

from comfy.model_patcher import ModelPatcher

STATIC = "velocity_static_model"  # attribute of the loaded model


def without_dynamic_vram(model: ModelPatcher) -> ModelPatcher:
    """Return a clone of `model` without dynamic VRAM, its weights loaded once for all clones of one loaded model.

    Raises `ValueError` where the model has dynamic VRAM and its loader does not say how to load it anew.
    """
    if not model.is_dynamic():
        return model.clone()
    if model.cached_patcher_init is None:
        raise ValueError(
            "Compile Model+ has to load this model anew, without dynamic VRAM, and its loader does not say how; use "
            "Load Diffusion Model+, choose the scope 'blocks', or start ComfyUI with --disable-dynamic-vram"
        )
    loaded = vars(model.model)
    static = model.clone(disable_dynamic=True, model_override=loaded.get(STATIC))
    loaded[STATIC] = static.get_clone_model_override()
    return static
