"""What nodes that merge models and nodes that hook LoRAs to a prompt need of a quantised model."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.hooks import EnumHookType
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor

KEY = "velocity_quantized"


def serve_other_nodes(model: ModelPatcher) -> None:
    """Let the nodes that merge models take `model` as their second one too, and have LoRA hooks refused in words."""
    for module in model.model.diffusion_model.modules():
        if isinstance(getattr(module, "weight", None), QuantizedTensor):
            _name_parts(module)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _refuse_lora_hooks)


def _name_parts(module: torch.nn.Module) -> None:
    """Give the module an attribute for each name in its state dict: core's `get_key_patches` reads them all.

    Scales and notes are parts of the weight and no parameters, so nothing is made of these values.
    """
    for name in module.state_dict():
        if not hasattr(module, name):
            setattr(module, name, torch.empty(0))


def _refuse_lora_hooks(executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    """An OUTER_SAMPLE wrapper: raises ValueError where core would fail with an assertion once the hook acts."""
    for cond in (cond for conds in executor.class_obj.conds.values() for cond in conds):
        if cond.get("hooks") and any(hook.hook_type == EnumHookType.Weight for hook in cond["hooks"].hooks):
            raise ValueError(
                "a LoRA that is hooked to a prompt can't change quantised weights while the model samples: take Load "
                "LoRA for the whole picture, or load this model with the precision bf16"
            )
    return executor(*args, **kwargs)
