"""A tiny model with random weights for each architecture, built from ComfyUI's own class and called as ComfyUI does.

`BUILDERS` maps "Architecture" or "Architecture: variant" to a function that builds a `TinyModel`. Float32 on the CPU.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch


class NotInThisComfyUI(Exception):
    """The ComfyUI under test does not ship this model class."""


def load_class(path: str) -> type:
    """Return the class that a dotted path names, or raise `NotInThisComfyUI`."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise NotInThisComfyUI(f"this ComfyUI has no {path}") from error


class Draw:
    """Seeded inputs: `draw(2, 3)` is a normal (2, 3) tensor."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)


Inputs = Callable[[Draw], dict[str, Any]]


class TinyModel:
    """A diffusion model with seeded random weights and inputs that fit it.

    `inputs` returns the arguments of the forward: `x`, `t` and others by name.
    """

    def __init__(self, model_class: str, config: dict[str, Any], inputs: Inputs, prepare: Callable | None = None):
        import comfy.ops

        cls = load_class(model_class)
        self.inputs = inputs
        with torch.no_grad():
            self.diffusion_model = cls(
                **config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
            )
            _randomize(self.diffusion_model)
            if prepare is not None:
                prepare(self.diffusion_model)
        self.diffusion_model.requires_grad_(False).eval()

    def call(self, seed: int, transformer_options: dict | None = None) -> Any:
        """Run one forward with inputs drawn from `seed`, the way `BaseModel._apply_model` calls it."""
        arguments = self.inputs(Draw(seed))
        x, t = arguments.pop("x"), arguments.pop("t")
        options = {"cond_or_uncond": [0], **(transformer_options or {})}
        arguments = {"context": None, "control": None, **arguments}
        with torch.no_grad():
            return self.diffusion_model(x, t, transformer_options=options, **arguments)


def _randomize(model: torch.nn.Module) -> None:
    """Give every parameter a seeded value, zero-initialised ones too: matrices keep the variance of their input."""
    draw = Draw(0)
    for name, parameter in model.named_parameters():
        value = draw(*parameter.shape)
        if parameter.ndim >= 2:
            value *= parameter[0].numel() ** -0.5
        else:
            value = 0.1 * value + (1.0 if name.endswith("weight") or name.endswith("scale") else 0.0)
        parameter.copy_(value)


def _t(value: float = 0.7, batch: int = 1) -> torch.Tensor:
    return torch.full((batch,), value)


FLUX = {
    "in_channels": 4, "out_channels": 4, "vec_in_dim": 12, "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0,
    "num_heads": 2, "depth": 3, "depth_single_blocks": 3, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX_2 = {
    **FLUX, "axes_dim": [4, 4, 4, 4], "vec_in_dim": None, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index",
    "ref_index_scale": 10.0,
}  # fmt: skip
WAN = {
    "in_dim": 4, "out_dim": 4, "dim": 24, "ffn_dim": 48, "freq_dim": 16, "text_dim": 16, "num_heads": 2,
    "num_layers": 3, "text_len": 8,
}  # fmt: skip


def _flux_inputs(draw: Draw) -> dict[str, Any]:
    return {"x": draw(1, 4, 8, 8), "t": _t(), "context": draw(1, 5, 16), "y": draw(1, 12), "guidance": _t(3.5)}


def _wan_inputs(draw: Draw) -> dict[str, Any]:
    return {"x": draw(1, 4, 2, 4, 4), "t": _t(), "context": draw(1, 5, 16)}


def _model(model_class: str, config: dict, inputs: Inputs, prepare: Callable | None = None) -> Callable[[], TinyModel]:
    return functools.partial(TinyModel, "comfy.ldm." + model_class, config, inputs, prepare)


BUILDERS: dict[str, Callable[[], TinyModel]] = {
    "Flux": _model("flux.model.Flux", FLUX, _flux_inputs),
    "Flux: 2": _model("flux.model.Flux", FLUX_2, _flux_inputs),
    "Wan": _model("wan.model.WanModel", WAN, _wan_inputs),
    "Qwen-Image": _model(
        "qwen_image.model.QwenImageTransformer2DModel",
        {
            "in_channels": 16, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
            "joint_attention_dim": 16, "axes_dims_rope": (4, 6, 6),
        },
        lambda draw: {"x": draw(1, 4, 1, 8, 8), "t": _t(), "context": draw(1, 5, 16)},
    ),
}  # fmt: skip
