"""Row-wise fp8 activations: each token has a scale of its own, taken from its own largest value while the model runs.

Core's fp8 path casts activations with one scale for the whole tensor, 1 unless the checkpoint brings a calibrated one:
a token with an outlier is clipped at 448 and small ones fall below the smallest step. Here the input is quantised
row by row (`kernels/rowwise_fp8.py`) and multiplied on the tensor cores.

The *weight* carries the layout: core's e4m3 tensor under another layout name, whose product with a plain tensor is the
row-wise one. Core's Linear must then leave its input alone. Where core has formats of which only the weight is
quantised (int8), the layer gets the name of one more such format, and its stock name back in everything that is saved;
older cores leave the input of a layer alone that is marked for full precision. Weights stay QuantizedTensors of a
subclass of core's layout with the same data and scale, so LoRA, saving and weight streaming work as with core's; with a
LoRA that is not baked in, core's Linear multiplies in full precision as ever.
Without fp8 on the device both sides are dequantised and multiplied: nearly the same numbers, slower.
"""

import functools
import json
from collections.abc import Iterable
from dataclasses import replace

import comfy.model_management as management
import comfy.quant_ops as quant_ops
import torch
from torch.nn.functional import linear

from .kernels.rowwise_fp8 import capability, is_stand_in, quantize_rows

LAYOUT = "VelocityRowwiseFP8Layout"
FORMAT = "velocity_rowwise_fp8"  # in core's table of formats; never in a file
STOCK_FORMAT = "float8_e4m3fn"
Core = quant_ops.TensorCoreFP8E4M3Layout
aten = torch.ops.aten


class RowwiseFP8Layout(Core):
    """Core's e4m3 layout of weights, one scale each, that are multiplied with activations quantised by row."""

    @staticmethod
    def opaque_linear(x: torch.Tensor, weight: quant_ops.QuantizedTensor, bias: torch.Tensor | None) -> torch.Tensor:
        """linear(x (..., K), weight (N, K), bias (N,) or None), in one operation: see `quantized_linear.py`."""
        return rowwise_matmul(x, weight._qdata.t(), weight._params.scale, bias)


def use_rowwise_activations(diffusion_model: torch.nn.Module, compute_dtype: torch.dtype | None = None) -> int:
    """Switch each fp8 Linear (core's e4m3 weight, not marked for full precision) and return their number.

    `compute_dtype` is that of the activations, where it is not the one that core chose for the model: core dequantises
    a weight whose nominal dtype is another, and would multiply in full precision. Calling it twice changes nothing.
    Raises `ValueError` when there is no such layer.
    """
    switched = {name: module for name, module in diffusion_model.named_modules() if _is_fp8_linear(module)}
    if not switched:
        raise ValueError(
            f"no Linear of {type(diffusion_model).__name__} has a scaled float8_e4m3fn weight that may be multiplied "
            "in fp8, so there is nothing to speed up; load it with precision 'fp8 fast' from a file in 16 bits"
        )
    _register()
    for module in switched.values():
        weight = module.weight
        params = replace(weight._params, orig_dtype=compute_dtype or weight.dtype)
        relabelled = quant_ops.QuantizedTensor(weight._qdata, LAYOUT, params)
        module.weight = torch.nn.Parameter(relabelled, requires_grad=False)
        module.layout_type = LAYOUT  # core 0.18.2 requantises with it after a LoRA
        _leave_input_alone(module)
    _save_as_stock(diffusion_model, switched)
    return len(switched)


def _leave_input_alone(module: torch.nn.Module) -> None:
    """Have core's Linear give the product a plain input."""
    if FORMAT in quant_ops.QUANT_ALGOS:
        module.quant_format = FORMAT
        module._full_precision_mm = False  # with it, newer cores dequantise the weight in each call
    else:
        module._full_precision_mm = True


def _save_as_stock(diffusion_model: torch.nn.Module, layers: Iterable[str]) -> None:
    """Have every state dict of the model name core's own format, so that a file made of it is a stock one."""
    note = torch.tensor(list(json.dumps({"format": STOCK_FORMAT}).encode()), dtype=torch.uint8)
    names = [f"{layer}.comfy_quant" for layer in layers]

    def rename(_: torch.nn.Module, state_dict: dict, prefix: str, __: dict) -> None:
        # A tensor each: files don't take one under several names.
        state_dict.update((prefix + name, note.clone()) for name in names if prefix + name in state_dict)

    diffusion_model.register_state_dict_post_hook(rename)


def _is_fp8_linear(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, quant_ops.QuantizedTensor) or not hasattr(module, "in_features") or weight.ndim != 2:
        return False  # embeddings and banks of experts have quantised weights too
    marked = getattr(module, "_full_precision_mm_config", False)
    return not marked and issubclass(weight.layout_cls, Core) and weight._params.scale.numel() == 1


def _register() -> None:
    """Tell core's registries about this layout. F.linear arrives whole in inference mode, else in parts."""
    quant_ops.register_layout_class(LAYOUT, RowwiseFP8Layout)
    stock = quant_ops.QUANT_ALGOS[STOCK_FORMAT]
    if any("quantize_input" in algorithm for algorithm in quant_ops.QUANT_ALGOS.values()):
        quant_ops.QUANT_ALGOS[FORMAT] = {**stock, "comfy_tensor_layout": LAYOUT, "quantize_input": False}
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
    return _multiply(x, weight._qdata.t(), weight._params.scale, bias)


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
    """Return x (..., K) @ (q (K, N) * scale, one number) + bias (N,) in the dtype of x (..., N), x quantised by row."""
    product = rowwise_matmul if is_stand_in(x) else _rowwise_matmul
    return product(x, q, scale, bias)


def _rowwise_matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product itself."""
    rows = x.reshape(-1, x.shape[-1])
    return _matmul(*quantize_rows(rows), q, scale, bias, x.dtype).reshape(*x.shape[:-1], q.shape[1])


@torch.library.custom_op("velocity::rowwise_matmul", mutates_args=())
def rowwise_matmul(x: torch.Tensor, q: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`_rowwise_matmul`, opaque to the compiler: torch's own rule for the product can't have one row for each of any
    number of samples."""
    return _rowwise_matmul(x, q, scale, bias)


@rowwise_matmul.register_fake
def _(x: torch.Tensor, q: torch.Tensor, *_: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], q.shape[1])


def _matmul(
    codes: torch.Tensor,
    rows: torch.Tensor,
    q: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return (codes (M, K) * rows (M, 1)) @ (q (K, N) * scale) + bias (N,) in `dtype` (M, N)."""
    if not _tensor_cores_take(q):
        x, weight = (codes.float() * rows).to(dtype), (q.float() * scale).to(dtype)
        return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)
    if not len(codes):
        return rows.new_empty(0, q.shape[1], dtype=dtype)
    if _has_rowwise_matmul(q.device):
        columns = scale.expand(1, q.shape[1]).contiguous()
        written = dtype if dtype == torch.float16 and _writes_half(q.device) else torch.bfloat16
        inside = bias if bias is not None and bias.dtype == written else None  # the one that the kernel adds
        out = _scaled_mm(codes, q, rows, columns, inside, written)
        return _finish(out, dtype, None, None if inside is not None else bias)
    # one scale per tensor on the tensor cores, the rows' own afterwards: float16 lacks the range for unscaled sums
    return _finish(_scaled_mm(codes, q, torch.ones_like(scale), scale, None, torch.bfloat16), dtype, rows, bias)


def _finish(
    out: torch.Tensor, dtype: torch.dtype, rows: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return out (M, N) * rows (M, 1) + bias (N,) in `dtype`, in one pass, and in place where that can be."""
    if rows is None and bias is None:
        return out.to(dtype)
    result = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    if rows is None:
        return torch.add(out, bias, out=result)
    return torch.mul(out, rows, out=result) if bias is None else torch.addcmul(bias, out, rows, out=result)


def _scaled_mm(
    x: torch.Tensor,
    q: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    return torch._scaled_mm(x, q, rows, columns, bias, out_dtype=dtype, use_fast_accum=True)


@functools.cache
def _writes_half(device: torch.device) -> bool:
    """Whether the row-wise product writes float16 here: cuBLAS does, the kernels that torch brings write bfloat16."""
    codes = torch.zeros(16, 16, device=device).to(torch.float8_e4m3fn)
    scales, bias = torch.ones(16, 1, device=device), torch.zeros(16, device=device, dtype=torch.float16)
    try:
        _scaled_mm(codes, codes.t(), scales, scales.t(), bias, torch.float16)
    except (RuntimeError, ValueError):
        return False
    return True


def _tensor_cores_take(q: torch.Tensor) -> bool:
    """e4m3 products need Ada or newer, or an AMD card that core knows, both sides of q in multiples of 16, and its
    columns dense."""
    if q.device.type != "cuda" or q.shape[0] % 16 or q.shape[1] % 16 or q.stride(0) != 1:
        return False
    if torch.version.hip is not None:
        return management.supports_fp8_compute(q.device)
    return capability(q.device) >= (8, 9)


def _has_rowwise_matmul(device: torch.device) -> bool:
    """Hopper and data centre Blackwell; torch supports it elsewhere only in some builds."""
    return torch.version.hip is None and capability(device)[0] in (9, 10)
