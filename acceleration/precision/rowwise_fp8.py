"""Row-wise fp8 activations: each token has a scale of its own, taken from its own largest value while the model runs.

Core's fp8 path casts activations with one scale for the whole tensor, 1 unless the checkpoint brings a calibrated one:
a token with an outlier is clipped at 448 and small ones fall below the smallest step. Here the input is quantised
row by row (`kernels/rowwise_fp8.py`) and multiplied on the tensor cores.

The *weight* carries the layout: core's e4m3 tensor under another layout name, whose product with a plain tensor is the
row-wise one. Core's Linear then has nothing to quantise before the product. That matters for torch.compile: dynamo
breaks the graph where core makes a QuantizedTensor of the input, but goes through this product without a break.
Weights stay QuantizedTensors of a subclass of core's layout with the same data and scale, so LoRA, saving and weight
streaming work as with core's; with a LoRA that is not baked in, core's Linear multiplies in full precision as ever.
Without fp8 on the device both sides are dequantised and multiplied: nearly the same numbers, slower.
"""

from dataclasses import replace

import comfy.quant_ops as quant_ops
import torch
from torch.nn.functional import linear

from .kernels.rowwise_fp8 import quantize_rows

LAYOUT = "VelocityRowwiseFP8Layout"
Core = quant_ops.TensorCoreFP8E4M3Layout
aten = torch.ops.aten


class RowwiseFP8Layout(Core):
    """Core's e4m3 layout of weights, one scale each, that are multiplied with activations quantised by row."""


def use_rowwise_activations(diffusion_model: torch.nn.Module, compute_dtype: torch.dtype | None = None) -> int:
    """Switch each fp8 Linear (core's e4m3 weight, not marked for full precision) and return their number.

    `compute_dtype` is that of the activations, where it is not the one that core chose for the model: core dequantises
    a weight whose nominal dtype is another, and would multiply in full precision. Calling it twice changes nothing.
    Raises `ValueError` when there is no such layer.
    """
    switched = [module for module in diffusion_model.modules() if _is_fp8_linear(module)]
    if not switched:
        raise ValueError(
            f"no Linear of {type(diffusion_model).__name__} has a scaled float8_e4m3fn weight that may be multiplied "
            "in fp8, so there is nothing to speed up; load it with precision 'fp8 fast' from a file in 16 bits"
        )
    _register()
    for module in switched:
        weight = module.weight
        params = replace(weight._params, orig_dtype=compute_dtype or weight.dtype)
        relabelled = quant_ops.QuantizedTensor(weight._qdata, LAYOUT, params)
        module.weight = torch.nn.Parameter(relabelled, requires_grad=False)
        module.layout_type = LAYOUT  # core 0.18.2 requantises with it after a LoRA
        module._full_precision_mm = True  # core's word for: don't quantise the input, give the product a plain one
    return len(switched)


def _is_fp8_linear(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, quant_ops.QuantizedTensor) or not hasattr(module, "in_features") or weight.ndim != 2:
        return False  # embeddings and banks of experts have quantised weights too
    marked = getattr(module, "_full_precision_mm_config", False)
    return not marked and issubclass(weight.layout_cls, Core) and weight._params.scale.numel() == 1


def _register() -> None:
    """Tell core's registry of layouts about this one. F.linear arrives whole in inference mode, else in parts."""
    quant_ops.register_layout_class(LAYOUT, RowwiseFP8Layout)
    for operation, handler in {aten.linear.default: _linear, aten.mm.default: _mm, aten.addmm.default: _addmm}.items():
        quant_ops.register_layout_op(operation, RowwiseFP8Layout)(handler)
    for operation in (aten.t.default, aten.view.default, aten.reshape.default):
        quant_ops.register_layout_op(operation, RowwiseFP8Layout)(_reshaping(operation))


def _linear(_: object, args: tuple, kwargs: dict) -> torch.Tensor:
    """linear(x (..., K), weight (N, K), bias (N,) or None)."""
    x, weight = args[:2]
    bias = args[2] if len(args) > 2 else None
    if not _is_weight(weight):
        return linear(_plain(x), _plain(weight), bias)
    out = _multiply(x.reshape(-1, x.shape[-1]), weight._qdata.t(), weight._params.scale, bias)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def _mm(_: object, args: tuple, kwargs: dict) -> torch.Tensor:
    """mm(x (M, K), weight (K, N))."""
    x, weight = args
    if not _is_weight(weight):
        return torch.mm(_plain(x), _plain(weight))
    return _multiply(x, weight._qdata, weight._params.scale, None)


def _addmm(_: object, args: tuple, kwargs: dict) -> torch.Tensor:
    """addmm(bias (N,), x (M, K), weight (K, N))."""
    bias, x, weight = args
    if kwargs or bias.ndim != 1 or not _is_weight(weight):
        return torch.addmm(_plain(bias), _plain(x), _plain(weight), **kwargs)
    return _multiply(x, weight._qdata, weight._params.scale, bias)


def _reshaping(operation: object) -> object:
    """Return a handler for an operation that only moves elements: core's would give the result core's layout."""

    def handler(weight: torch.Tensor, args: tuple, kwargs: dict) -> torch.Tensor:
        q = operation(weight._qdata, *args[1:], **kwargs)
        return quant_ops.QuantizedTensor(q, LAYOUT, replace(weight._params, orig_shape=tuple(q.shape)))

    return handler


def _is_weight(tensor: object) -> bool:
    return isinstance(tensor, quant_ops.QuantizedTensor) and issubclass(tensor.layout_cls, RowwiseFP8Layout)


def _plain(tensor: object) -> object:
    return tensor.dequantize() if isinstance(tensor, quant_ops.QuantizedTensor) else tensor


def _multiply(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return x (M, K) @ (q (K, N) * scale, one number) + bias (N,) in the dtype of x (M, N), x quantised by row."""
    codes, rows = quantize_rows(x)
    if not _tensor_cores_take(codes, q):
        x, weight = (codes.float() * rows).to(x.dtype), (q.float() * scale).to(x.dtype)
        return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
    if _has_rowwise_matmul(q.device):
        columns = scale.reshape(1, 1).expand(1, q.shape[1]).contiguous()
        inside = bias if bias is not None and bias.dtype == torch.bfloat16 else None  # the one that the kernel adds
        out = _scaled_mm(codes, q, rows, columns, inside)
        bias = None if inside is not None else bias
    else:  # one scale per tensor on the tensor cores, the rows' own afterwards
        out = _scaled_mm(codes, q, torch.ones_like(scale), scale).mul_(rows)
    out = out.to(x.dtype)
    return out if bias is None else out.add_(bias)


def _scaled_mm(x: torch.Tensor, q: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, bias=None) -> torch.Tensor:
    """bfloat16 is the one dtype that the row-wise kernels write, and has the range for unscaled sums."""
    return torch._scaled_mm(x, q, rows, columns, bias, out_dtype=torch.bfloat16, use_fast_accum=True)


def _tensor_cores_take(x: torch.Tensor, q: torch.Tensor) -> bool:
    """e4m3 products need Ada or newer, rows to work on, both sides of q in multiples of 16, and its columns dense."""
    if q.device.type != "cuda" or torch.version.cuda is None or q.shape[0] % 16 or q.shape[1] % 16:
        return False
    return x.shape[0] > 0 and q.stride(0) == 1 and torch.cuda.get_device_capability(q.device) >= (8, 9)


def _has_rowwise_matmul(device: torch.device) -> bool:
    """Hopper and data centre Blackwell; torch supports it elsewhere only in some builds."""
    return torch.cuda.get_device_capability(device)[0] in (9, 10)
