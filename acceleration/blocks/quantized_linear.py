"""Core's quantised Linear as one operation that torch.compile does not look into.

Where the card computes a format itself, core's Linear makes a `QuantizedTensor` of its input, and every graph breaks
there. For the length of a `with` statement the Linears of a block hand their product to `velocity::quantized_linear`,
which does with plain tensors what core does: the numbers are the same, and one graph serves any number of samples.
All else stays core's: casts, LoRAs, weights that move.

Core's `Linear.forward` quantises its input where the module has a `layout_type`, and multiplies by calling
`_forward(input, weight, bias)`: for as long, both are attributes of the module itself. A weight that arrives as plain
numbers (a LoRA that is not baked in, activations of another dtype) is multiplied as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.functional import linear

# Core's layouts whose input is quantised like the weight; one whose input is not compiles without this.
LAYOUTS = frozenset(
    {"TensorCoreFP8E4M3Layout", "TensorCoreFP8E5M2Layout", "TensorCoreMXFP8Layout", "TensorCoreNVFP4Layout"}
)


@contextmanager
def opaque_products(block: nn.Module) -> Iterator[None]:
    """While open, Linears in `block` that quantise their input multiply in one operation opaque to the compiler.

    Not for two threads on one block at a time.
    """
    changed = []
    try:
        for attributes in _quantized_linears(block):
            layout = attributes["layout_type"]
            changed.append((attributes, layout))
            attributes["_forward"] = _product(layout, attributes["_parameters"].get("input_scale"))
            attributes["layout_type"] = None
        yield
    finally:
        for attributes, layout in changed:
            attributes["layout_type"] = layout
            del attributes["_forward"]


def _quantized_linears(block: nn.Module) -> Iterator[dict]:
    """Yield the attributes of each Linear whose input core would quantise. Runs in each call: `modules()` is slower."""
    modules = [block]
    while modules:
        attributes = modules.pop().__dict__
        if attributes.get("layout_type") in LAYOUTS and "in_features" in attributes and "_forward" not in attributes:
            if not attributes["_full_precision_mm"] and not attributes.get("comfy_force_cast_weights"):
                yield attributes
        modules += [module for module in attributes["_modules"].values() if module is not None]


def _product(layout: str, input_scale: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """Return what stands in for core's `_forward`."""
    return partial(_multiply, layout=layout, input_scale=input_scale)


def _multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: str, input_scale: torch.Tensor | None
) -> torch.Tensor:
    from comfy.quant_ops import QuantizedTensor

    if not isinstance(weight, QuantizedTensor) or x.ndim < 2:
        return linear(x, weight, bias)
    scale, block_scale = weight._params.scale, getattr(weight._params, "block_scale", None)
    return quantized_linear(x, weight._qdata, scale, block_scale, bias, input_scale, weight.shape[0], layout)


@torch.library.custom_op("velocity::quantized_linear", mutates_args=())
def quantized_linear(
    x: torch.Tensor,
    qdata: torch.Tensor,
    scale: torch.Tensor,
    block_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    rows: int,
    layout: str,
) -> torch.Tensor:
    """Return x (..., K) @ weight (rows, K).T + bias (rows,) as core computes it, in the dtype of x (..., rows).

    The weight is `qdata` with `scale`, in nvfp4 also `block_scale`, in core's `layout`; it may be padded. x is
    quantised in the same layout, with `input_scale` where the checkpoint has one.
    """
    from comfy.quant_ops import QuantizedTensor, get_layout_class

    scales = {"scale": scale} if block_scale is None else {"scale": scale, "block_scale": block_scale}
    params = get_layout_class(layout).Params(**scales, orig_dtype=x.dtype, orig_shape=(rows, x.shape[-1]))
    weight = QuantizedTensor(qdata, layout, params)
    if input_scale is not None:
        input_scale = input_scale.to(x.device)
    quantized = QuantizedTensor.from_float(x.reshape(-1, x.shape[-1]), layout, scale=input_scale)
    return linear(quantized, weight, bias).reshape(*x.shape[:-1], rows).contiguous()


@quantized_linear.register_fake
def _(x: torch.Tensor, *others: torch.Tensor | str | int | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], others[5])
