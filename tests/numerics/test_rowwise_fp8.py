"""Row-wise fp8 activations in core's own Linear: error, independence of rows, LoRA, saving, torch.compile. On the CPU,
where the matmul is emulated with the numbers that the tensor cores would multiply."""

import json

import comfy.model_management
import comfy.ops
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, TensorCoreFP8E4M3Layout
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from velocity_nodes.acceleration.blocks.quantized_linear import opaque_products
from velocity_nodes.acceleration.precision import rowwise_fp8
from velocity_nodes.acceleration.precision.kernels.rowwise_fp8 import quantize_rows
from velocity_nodes.acceleration.precision.rowwise_fp8 import FORMAT, LAYOUT, _rowwise_matmul, use_rowwise_activations

K, N = 96, 48


def fp8_linear(
    full_precision: bool = False, disabled: tuple = ("float8_e4m3fn",), bias: bool = True
) -> torch.nn.Module:
    """Core's Linear with a scaled e4m3 weight (N, K), loaded as from a checkpoint; on the CPU core disables e4m3."""
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(N, K, generator=draw) / K**0.5
    scale = weight.abs().max() / 448
    settings = {"format": "float8_e4m3fn"} | ({"full_precision_matrix_mult": True} if full_precision else {})
    state = {
        "0.weight": (weight / scale).to(torch.float8_e4m3fn),
        "0.weight_scale": scale,
        "0.comfy_quant": torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8),
    }
    if bias:
        state["0.bias"] = torch.randn(N, generator=draw)
    operations = comfy.ops.mixed_precision_ops({}, torch.float32, disabled=set(disabled))
    model = torch.nn.Sequential(operations.Linear(K, N, bias=bias, device="cpu"))
    model.load_state_dict(state, strict=True)
    return model


def rowwise(**options) -> torch.nn.Module:
    """The same, switched."""
    model = fp8_linear(**options)
    assert use_rowwise_activations(model) == 1
    return model


def activations(rows: int = 40, outliers: int = 4) -> torch.Tensor:
    """Tokens as transformers have them: a few a thousand times larger than the others."""
    draw = torch.Generator().manual_seed(6)
    x = torch.randn(1, rows, K, generator=draw)
    x[:, :outliers] *= 1000
    return x


def errors(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Relative L2 error of each token against the product in full precision with the same weight."""
    exact = fp8_linear(bias=False)(x)
    return ((result - exact).norm(dim=-1) / exact.norm(dim=-1)).flatten()


@torch.inference_mode()
def test_error_is_a_fraction_of_cores() -> None:
    """Core's path clips what is above 448 and keeps few bits of small values; each row here is as exact as e4m3 can."""
    x = activations()
    x[:, -8:] *= 1e-3
    ours = errors(rowwise(bias=False)(x), x)
    core = errors(fp8_linear(disabled=(), bias=False)(x), x)  # as on a card with fp8
    assert 0.01 < ours.min() and ours.max() < 0.05  # it did quantise, and every row is near
    assert ours.max() < core[:4].min() / 10 and ours.max() < core[-8:].min() / 3
    assert ours.mean() < core.mean() / 5


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 40, K), (40, K), (2, 20, K), (0, K), (1, K)])
def test_is_the_product_of_what_was_quantised(bias: bool, shape: tuple[int, ...]) -> None:
    """The result is that of dequantised operands, in every shape that core sends."""
    model = rowwise(bias=bias)
    x = activations().flatten()[: torch.Size(shape).numel()].reshape(shape)
    q, scale = quantize_rows(x.reshape(-1, K))
    expected = torch.nn.functional.linear(q.float() * scale, model[0].weight.dequantize(), model[0].bias)
    torch.testing.assert_close(model(x), expected.reshape(*shape[:-1], N))


@torch.no_grad()
def test_outside_inference_mode() -> None:
    """There the product arrives as t and addmm."""
    x = activations()
    with torch.inference_mode():
        expected = rowwise()(x)
    torch.testing.assert_close(rowwise()(x), expected)


@torch.inference_mode()
def test_rows_do_not_see_each_other() -> None:
    """A token's result does not depend on what else is in the batch."""
    model, x = rowwise(), activations()
    torch.testing.assert_close(model(x[:, 4:]), model(x)[:, 4:], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_a_lora_takes_cores_path() -> None:
    """A weight function (a LoRA that is not baked in) means full precision, with and without the switch."""
    x, plain, switched = activations(), fp8_linear(), rowwise()
    for model in (plain, switched):
        model[0].weight_function = [lambda weight: weight * 2]
        model[0].comfy_cast_weights = True
    assert torch.equal(switched(x), plain(x))


@torch.inference_mode()
def test_a_baked_lora_keeps_the_weight_fp8() -> None:
    """`set_weight`, by which core patches a LoRA in, leaves a weight that runs the same path and saves the same."""
    model, x = rowwise(), activations()
    full = model[0].weight.dequantize()
    model[0].set_weight(full * 2, seed=0)
    assert isinstance(model[0].weight, QuantizedTensor) and model[0].weight.storage_dtype == torch.float8_e4m3fn
    bias = model[0].bias
    torch.testing.assert_close(model(x) - bias, 2 * (rowwise()(x) - bias), rtol=1e-3, atol=2e-2)
    with torch.no_grad():
        q, scale = quantize_rows(x[0])
        expected = torch.nn.functional.linear(q.float() * scale, model[0].weight.dequantize(), bias)
        torch.testing.assert_close(model(x)[0], expected)
    assert set(model.state_dict()) == set(fp8_linear().state_dict())


def test_saves_what_core_saves() -> None:
    """The switch is no part of the checkpoint, and the weight stays core's own tensor."""
    plain, switched = fp8_linear(), rowwise()
    before, after = plain.state_dict(), switched.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor.float(), after[name].float()), name
    assert issubclass(switched[0].weight.layout_cls, TensorCoreFP8E4M3Layout)


def test_which_layers_are_switched() -> None:
    """Again changes nothing; a layer that its checkpoint marks for full precision is left; none at all is an error."""
    model = rowwise()
    assert use_rowwise_activations(model) == 1
    marked = fp8_linear(full_precision=True)
    with pytest.raises(ValueError, match="Sequential.*load it with precision"):
        use_rowwise_activations(marked)
    both = torch.nn.ModuleList([marked, fp8_linear()])
    assert use_rowwise_activations(both) == 1
    assert marked[0].weight._layout_cls != LAYOUT and both[1][0].weight._layout_cls == LAYOUT


@torch.inference_mode()
def test_another_compute_dtype() -> None:
    """Activations in a dtype that core did not choose are multiplied in fp8 too, when it is named."""
    x = activations().bfloat16()
    model = fp8_linear(bias=False)
    exact = model(x)  # core dequantises
    use_rowwise_activations(model, torch.bfloat16)
    q, scale = quantize_rows(x[0])
    weight = (model[0].weight._qdata.float() * model[0].weight._params.scale).bfloat16()
    expected = torch.mm((q.float() * scale).bfloat16(), weight.t())
    assert torch.equal(model(x)[0], expected) and not torch.equal(model(x), exact)


@torch.inference_mode()
def test_broken_rows_stay_broken_and_alone() -> None:
    """NaN and infinity come out as no number; the other tokens are as without them."""
    model, x = rowwise(), activations()
    expected = model(x)
    x[0, 7, 3], x[0, 9, 0] = float("nan"), float("inf")
    result = model(x)
    assert not result[0, [7, 9]].isfinite().any()
    others = [row for row in range(40) if row not in (7, 9)]
    torch.testing.assert_close(result[0, others], expected[0, others])


CARDS = {
    "Ampere": ((8, 0), None, None),
    "Ada": ((8, 9), None, ()),
    "Hopper": ((9, 0), None, (40, 1)),
    "B200": ((10, 0), None, (40, 1)),
    "RTX 50": ((12, 0), None, ()),
    "MI350": ((9, 5), "7.0", ()),  # AMD: core says which cards have it
}


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_card_would_run(monkeypatch: pytest.MonkeyPatch, card: str, dtype: torch.dtype) -> None:
    """Torch's own checks of shapes, strides, scales and dtypes, on stand-ins for CUDA tensors; no GPU is needed."""
    capability, hip, rows = CARDS[card]
    monkeypatch.setattr(rowwise_fp8, "capability", lambda device: capability)
    monkeypatch.setattr(rowwise_fp8, "_writes_half", lambda device: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device: True)
    calls = []
    real = torch._scaled_mm

    def noted(x: torch.Tensor, q: torch.Tensor, rows: torch.Tensor, *others, **options) -> torch.Tensor:
        calls.append(tuple(rows.shape))
        return real(x, q, rows, *others, **options)

    monkeypatch.setattr(torch, "_scaled_mm", noted)
    with FakeTensorMode(), torch.inference_mode():
        for columns in (N, N + 1):
            calls.clear()
            x, bias = torch.empty(40, K, device="cuda", dtype=dtype), torch.empty(columns, device="cuda", dtype=dtype)
            q = torch.empty(columns, K, device="cuda", dtype=torch.float8_e4m3fn)
            out = _rowwise_matmul(x, q.t(), torch.empty((), device="cuda"), bias)
            assert out.shape == (40, columns) and out.dtype == dtype
            assert calls == ([] if rows is None or columns == N + 1 else [rows])


def emulated(x, q, rows, columns, bias, dtype) -> torch.Tensor:
    """What the tensor cores do: sums in float32, rounded once. In one operation, so `Passes` does not look."""
    assert bias is None or bias.dtype == dtype
    with _disable_current_modes():
        out = (x.float() @ q.float()) * rows * columns
        return (out if bias is None else out + bias.float()).to(dtype)


def refuses_half(*arguments) -> torch.Tensor:
    if arguments[-1] != torch.bfloat16:
        raise RuntimeError("Only bf16 high precision output types are supported for row-wise scaling.")
    return emulated(*arguments)


@pytest.fixture(params=["Ada", "Hopper", "Hopper with an older cuBLAS"])
def on_a_card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch of the card, with the matmul emulated."""
    monkeypatch.setattr(rowwise_fp8, "_tensor_cores_take", lambda q: True)
    monkeypatch.setattr(rowwise_fp8, "_has_rowwise_matmul", lambda device: request.param != "Ada")
    monkeypatch.setattr(rowwise_fp8, "_scaled_mm", emulated if request.param == "Hopper" else refuses_half)
    monkeypatch.setattr(rowwise_fp8, "_writes_half", rowwise_fp8._writes_half.__wrapped__)


class Passes(TorchDispatchMode):
    """Counts the operations that write a tensor of a given shape."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.names = shape, []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.shape and not operation.is_view:
            self.names.append(str(operation))
        return result


@torch.inference_mode()
@pytest.mark.usefixtures("on_a_card")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_what_the_card_computes(request: pytest.FixtureRequest, dtype: torch.dtype, bias: bool) -> None:
    """Near the full product, in the dtype of the activations, and after the matmul at most one pass over it."""
    x = activations()[0].to(dtype)
    x[:4] /= 100  # fits fp16
    model = rowwise(bias=bias)
    q, scale, add = model[0].weight._qdata.t(), model[0].weight._params.scale, model[0].bias
    add = None if add is None else add.to(dtype)
    with Passes((40, N)) as passes:
        out = _rowwise_matmul(x, q, scale, add)
    codes, rows = quantize_rows(x)
    expected = (codes.float() * rows) @ (q.float() * scale) + (0 if add is None else add.float())
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.02, atol=0.02)
    made = [name for name in passes.names if "empty" not in name]
    assert len(made) <= 1, made
    if request.node.callspec.params["on_a_card"] == "Hopper" and dtype != torch.float32:
        assert not made, "the matmul itself writes this dtype and adds the bias"


@torch.inference_mode()
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_gives_the_eager_result(backend: str) -> None:
    """One graph, no break, no second compilation for another number of tokens once that is dynamic."""
    torch._dynamo.reset()
    counters.clear()
    model = rowwise()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    for tokens in (40, 30):
        x = activations(tokens)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-3)
    assert not counters["graph_break"], dict(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] == 1


@torch.inference_mode()
@pytest.mark.usefixtures("on_a_card")
def test_compiled_with_one_row_for_each_sample() -> None:
    """As Flux modulates: one graph for any number of samples."""
    torch._dynamo.reset()
    counters.clear()
    model = rowwise()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for samples in (2, 1, 5):
        x = activations(samples)[0]
        torch._dynamo.decorators.mark_unbacked(x, 0)
        torch.testing.assert_close(compiled(x), model(x))
    assert counters["stats"]["unique_graphs"] == 1


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_a_graph_with_an_input_of_another_dtype(dtype: torch.dtype) -> None:
    """Some blocks have inputs in float32 whatever the model computes in; uncompiled, ComfyUI 0.24 dequantises there."""
    model, x = rowwise(), activations(outliers=0).to(dtype)
    weight, bias = model[0].weight, model[0].bias
    expected = _rowwise_matmul(x, weight._qdata.t(), weight._params.scale, None if bias is None else bias.to(dtype))
    with opaque_products(model):
        assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(x), expected)


class NewerLinear:
    """The part of core's Linear after 0.31 that differs."""

    def forward_comfy_cast_weights(
        self, input: torch.Tensor, compute_dtype=None, want_requant: bool = False, weight_only_quant: bool = False
    ) -> torch.Tensor:
        if not weight_only_quant:
            weight, bias = comfy.ops.cast_bias_weight(self, input)
            if self._full_precision_mm and isinstance(weight, QuantizedTensor):
                weight = weight.dequantize()
        else:
            weight, bias = comfy.ops.cast_bias_weight(
                self, dtype=self.weight.dtype, device=input.device, bias_dtype=input.dtype, want_requant=True
            )
        return self._forward(input, weight, bias)


@torch.inference_mode()
def test_a_core_that_dequantises_what_it_multiplies_in_full() -> None:
    model, x = fp8_linear(), activations()
    expected = rowwise()(x)
    model[0].__class__ = type("Linear", (NewerLinear, type(model[0])), {})
    full = model(x)
    use_rowwise_activations(model)
    if FORMAT not in QUANT_ALGOS:
        pytest.skip("this core has no format of which only the weight is quantised")
    assert torch.equal(model(x), expected) and not torch.equal(expected, full)
