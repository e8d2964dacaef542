"""Core's quantised Linear as one operation that torch.compile does not look into.

Where the card computes a format itself, core's Linear makes a `QuantizedTensor` of its input, which breaks every graph
there. For the length of a `with` statement the Linears of a block hand their product to `velocity::quantized_linear`
instead. It does what core does with core's own layouts, so the numbers are the same, and everything around the product
stays core's: casts, LoRAs, moving weights.

Core's `Linear.forward` quantises where `layout_type` is set, and multiplies in `_forward(input, weight, bias)`: both
are attributes of the module for as long. A Linear that core would not quantise for is left as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear


@contextmanager
def opaque_products(block: nn.Module) -> Iterator[None]:
    """While open, quantised Linears in `block` multiply in one opaque operation. Not for two threads on one block."""
    changed = [vars(module) for module in block.modules() if _quantizes_input(module)]
    layouts = [attributes["layout_type"] for attributes in changed]
    try:
        for attributes, layout in zip(changed, layouts, strict=True):
            scale = attributes["_parameters"].get("input_scale")
            attributes["_forward"] = partial(_product, layout=layout, input_scale=scale)
            attributes["layout_type"] = None
        yield
    finally:
        for attributes, layout in zip(changed, layouts, strict=True):
            attributes.pop("_forward", None)
            attributes["layout_type"] = layout


def _quantizes_input(module: nn.Module) -> bool:
    """Whether core's forward would make a QuantizedTensor of what this module is called with."""
    from comfy.quant_ops import QUANT_ALGOS

    attributes = vars(module)
    if attributes.get("layout_type") is None or not hasattr(module, "_forward"):
        return False
    algorithm = QUANT_ALGOS.get(attributes.get("quant_format"), {})
    return not attributes["_full_precision_mm"] and algorithm.get("quantize_input", True)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: str, input_scale: Any):
    from comfy.quant_ops import QuantizedTensor

    if isinstance(weight, QuantizedTensor):
        params = weight._params
        return quantized_linear(
            x, weight._qdata, params.scale, getattr(params, "block_scale", None), bias, input_scale, layout, weight.shape[0]
        )
    return quantized_linear(x, weight, None, None, bias, input_scale, layout, weight.shape[0])


@torch.library.custom_op("velocity::quantized_linear", mutates_args=())
def quantized_linear(
    x: torch.Tensor,
    qdata: torch.Tensor,
    scale: torch.Tensor | None,
    block_scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    input_scale: torch.Tensor | None,
    layout: str,
    rows: int,
) -> torch.Tensor:
    from comfy.quant_ops import QuantizedTensor, get_layout_class

    if scale is None:
        weight = qdata
    else:
        scales = {"scale": scale} if block_scale is None else {"scale": scale, "block_scale": block_scale}
        params = get_layout_class(layout).Params(**scales, orig_dtype=x.dtype, orig_shape=(rows, x.shape[-1]))
        weight = QuantizedTensor(qdata, layout, params)
    q = QuantizedTensor.from_float(x.reshape(-1, x.shape[-1]), layout, scale=input_scale)
    return linear(q, weight, bias).reshape(*x.shape[:-1], rows)


@quantized_linear.register_fake
def _(x, qdata, scale, block_scale, bias, input_scale, layout, rows):
    return x.new_empty(*x.shape[:-1], rows)
