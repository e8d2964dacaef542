"""Run by test_compile.py: formats that a card multiplies itself. Core is told that this device does, and emulates."""

import logging
from collections.abc import Callable
from pathlib import Path

import comfy.model_management as management
import comfy.sd
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch._dynamo.backends import registry
from torch._dynamo.utils import counters
from velocity_nodes.acceleration.blocks.quantized_linear import LAYOUTS
from velocity_nodes.acceleration.compiling.compile import STORE
from velocity_nodes.acceleration.precision import rowwise_fp8
from velocity_nodes.acceleration.precision.load_quantized import LoadConfig, load_diffusion_model
from velocity_nodes.acceleration.precision.save_quantized import save_quantized

from .compiling import CLOSE, compare, compiled, forget, graphs
from .quantized import FILE
from .sampling import empty, run_sampler
from .test_cache_neighbours import with_lora

CHANGES = ({"latent": empty(1, 20, 16)}, {"latent": empty(3)}, {"cfg": 2.0})


@pytest.fixture(autouse=True)
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with tensor cores for every format."""
    for name in ("supports_fp8_compute", "supports_mxfp8_compute", "supports_nvfp4_compute"):
        monkeypatch.setattr(management, name, lambda *_: True)
    forget()


def stock_fp8(folder: Path) -> ModelPatcher:
    """A file as others publish it, by ComfyUI's own loader: multiplied in fp8."""
    path = save_quantized(load_diffusion_model(str(FILE), LoadConfig("fp8 fast")), str(folder), "stock.safetensors")
    return comfy.sd.load_diffusion_model(str(path))


def ours(precision: str) -> Callable[[Path], ModelPatcher]:
    return lambda _: load_diffusion_model(str(FILE), LoadConfig(precision))


MODELS = {"stock fp8": stock_fp8, **{name: ours(name) for name in ("fp8 fast", "mxfp8", "nvfp4")}}


def quantises_its_input(model: ModelPatcher) -> bool:
    layers = model.model.diffusion_model.modules()
    return any(getattr(layer, "layout_type", None) in LAYOUTS and not layer._full_precision_mm for layer in layers)


def quantised_weights(model: ModelPatcher) -> list[QuantizedTensor]:
    return [weight for weight in model.model.diffusion_model.parameters() if isinstance(weight, QuantizedTensor)]


@pytest.mark.parametrize("name", MODELS)
def test_two_graphs_and_no_break(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = MODELS[name](tmp_path)
    assert quantises_its_input(model) == (name != "fp8 fast")  # which quantises it row by row, in a kernel of its own
    assert len(quantised_weights(model)) > 40
    patched = compiled(model)
    difference, new = compare(patched, model)
    assert (new, sum(counters["graph_break"].values())) == (2, 0)
    assert difference < CLOSE
    for settings in CHANGES:
        difference, new = compare(patched, model, **settings)
        assert new == 0, settings
        assert difference < CLOSE, settings
    difference, new = compare(with_lora(patched), with_lora(model))
    assert difference < CLOSE and new <= 2
    (store,) = vars(model.model)[STORE].values()
    assert not store.uncompiled
    assert not [record for record in caplog.records if record.name == "velocity" and record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["stock fp8", "nvfp4"])
def test_the_whole_model(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    expected, before = run_sampler(model, steps=2), graphs()
    output = run_sampler(compiled(model, scope="whole model"), steps=2)
    assert ((output - expected).norm() / expected.norm()).item() < CLOSE
    assert graphs() - before == 1 and not counters["graph_break"]


@pytest.mark.parametrize("scope", ["blocks", "whole model"])
def test_every_product_of_fp8_fast_is_in_fp8(scope: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also those whose input is no dense tensor: inductor's first half takes them apart in another way."""
    monkeypatch.setitem(registry._COMPILER_FNS, "eager", registry.lookup_backend("aot_eager"))
    model, real, shapes = ours("fp8 fast")(tmp_path), rowwise_fp8._rowwise_matmul, []

    def noted(x: torch.Tensor, q: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        shapes.append((*x.shape, q.shape[1]))
        return real(x, q, *others)

    monkeypatch.setattr(rowwise_fp8, "_rowwise_matmul", noted)
    run_sampler(model, steps=1)
    expected, shapes[:] = list(shapes), []
    run_sampler(compiled(model, scope=scope), steps=1)
    assert shapes == expected and len(expected) == len(quantised_weights(model))


def test_layers_are_cores_again_behind_each_call(tmp_path: Path) -> None:
    model = stock_fp8(tmp_path)
    run_sampler(compiled(model), steps=1)
    assert quantises_its_input(model)
    assert not any("_forward" in vars(layer) for layer in model.model.diffusion_model.modules())
