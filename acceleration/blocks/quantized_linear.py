"""Core's quantised Linear as one operation that torch.compile does not look into.

Where the card computes a format itself, core's Linear makes a `QuantizedTensor` of its input, and every graph breaks
there. For the length of a `with` statement the Linears of a block hand their product to `velocity::quantized_linear`,
which does with plain tensors what core does: the numbers are the same, and one graph serves any number of samples.
All else stays core's: casts, LoRAs, weights that move.

Core's `Linear.forward` quantises its input where the module has a `layout_type`, and multiplies by calling
`_forward(input, weight, bias)`: for as long, both are attributes of the module itself. A weight that arrives as plain
numbers (a LoRA that is not baked in, activations of another dtype) is multiplied as it is.

A layout of our own names its operation itself, as `opaque_linear(input, weight, bias)`, and takes inputs of any dtype.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

Product = Callable[[torch.Tensor, Any, torch.Tensor | None], torch.Tensor]  # of input, quantised weight and bias
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
        for attributes, product in _quantized_linears(block):
            changed.append((attributes, attributes["layout_type"]))
            attributes["_forward"] = partial(_multiply, product=product, own=_own_weight(attributes))
            attributes["layout_type"] = None
        yield
    finally:
        for attributes, layout in changed:
            attributes["layout_type"] = layout
            del attributes["_forward"]


def _quantized_linears(block: nn.Module) -> Iterator[tuple[dict, Product]]:
    """Yield the attributes of each Linear that no graph can hold as it is, and its product. Runs in each call:
    `modules()` is slower."""
    modules = [block]
    while modules:
        attributes = modules.pop().__dict__
        if attributes.get("layout_type") and "in_features" in attributes and "_forward" not in attributes:
            product = None if attributes.get("comfy_force_cast_weights") else _product(attributes)
            if product is not None:
                yield attributes, product
        modules += [module for module in attributes["_modules"].values() if module is not None]


def _product(attributes: dict) -> Product | None:
    layout = attributes["layout_type"]
    if layout in LAYOUTS:
        scale = attributes["_parameters"].get("input_scale")
        return None if attributes["_full_precision_mm"] else partial(_as_core, layout=layout, input_scale=scale)
    from comfy.quant_ops import get_layout_class

    return getattr(get_layout_class(layout), "opaque_linear", None)


def _own_weight(attributes: dict) -> torch.Tensor | None:
    """Return the weight that a layout of our own multiplies in whatever type its input has: without a `layout_type`
    core would give plain numbers of that type. None where core applies a LoRA to it."""
    if attributes["layout_type"] in LAYOUTS or attributes.get("weight_function") or "_v" in attributes:
        return None
    return attributes["_parameters"].get("weight")


def _multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, product: Product, own: torch.Tensor | None
) -> torch.Tensor:
    """What stands in for core's `_forward`."""
    from comfy.quant_ops import QuantizedTensor

    if isinstance(own, QuantizedTensor) and own.device == x.device:
        weight = own
    return product(x, weight, bias) if isinstance(weight, QuantizedTensor) else linear(x, weight, bias)


def _as_core(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: str, input_scale: torch.Tensor | None
) -> torch.Tensor:
    if x.ndim < 2:
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
