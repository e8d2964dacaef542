"""Run by test_compile.py: UNets, patches of other nodes, quantised models and models that compute in another type."""

import logging

import comfy.ops
import comfy.sample
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.compiling.compile import STORE

from .compiling import CLOSE, compare, compiled, error, graphs
from .quantized import FILE, load
from .sampling import empty, tiny_flux
from .test_cache_models import build
from .tiny_models import UNET, Draw

UNET_KINDS = 2  # transformer blocks of two widths


@pytest.fixture(scope="module")
def unet() -> ModelPatcher:
    """A Stable Diffusion 1.5 with 7 transformer blocks."""
    return build(comfy.supported_models.SD15, {**UNET, "adm_in_channels": None, "use_temporal_attention": False})


def run_unet(
    model: ModelPatcher, batch: int = 1, side: int = 8, tokens: int = 5, cfg: float = 2.0, steps: int = 3
) -> torch.Tensor:
    draw, latent = Draw(0), torch.zeros(batch, 4, side, side)
    conds = [[[draw(1, length, 16), {"pooled_output": draw(1, 1280)}]] for length in (tokens, 5)]
    noise = comfy.sample.prepare_noise(latent, 3)
    return comfy.sample.sample(model, noise, steps, cfg, "euler", "karras", *conds, latent, seed=3, disable_pbar=True)


CHANGES = ({}, {"side": 16}, {"batch": 2}, {"batch": 3, "side": 12}, {"tokens": 9}, {"cfg": 1.0})


def test_a_unet(unet: ModelPatcher) -> None:
    """One function for all blocks of a width, wherever they stand: SDXL has 70, torch gives up behind the eighth."""
    model, before = compiled(unet), graphs()
    for settings in CHANGES:
        assert error(run_unet(model, **settings), run_unet(unet, **settings)) < CLOSE
    assert graphs() - before == UNET_KINDS


def louder(query: torch.Tensor, context: torch.Tensor, value: torch.Tensor, options: dict) -> tuple:
    assert options["sigmas"].numel() and options["block"][0] in ("input", "middle", "output")
    return query * 1.3, context, value


def test_an_attention_patch_of_another_node(unet: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    """It may read which block and step it is in: that takes one graph for each kind, and the result is right."""
    patched, before = unet.clone(), graphs()
    patched.set_model_attn2_patch(louder)
    expected = run_unet(patched)
    assert error(expected, run_unet(unet)) > 0.01, "this patch changes nothing: it proves nothing"
    model = compiled(patched)
    for _ in range(2):
        assert error(run_unet(model), expected) < CLOSE
    assert graphs() - before <= 2 * UNET_KINDS  # one without the patch
    assert caplog.text.count("runs uncompiled") == UNET_KINDS
    model = compiled(unet)
    model.set_model_attn2_patch(louder)
    assert error(run_unet(model), expected) < CLOSE
    assert error(run_unet(compiled(unet)), run_unet(unet)) < CLOSE


def test_a_block_replacement_of_another_node() -> None:
    def softer(args: dict, extra: dict) -> dict:
        output = extra["original_block"](args)
        return {**output, "img": output["img"] * 0.98}

    patched = tiny_flux().clone()
    patched.set_model_patch_replace(softer, "dit", "double_block", 1)
    assert compare(tiny_flux(), patched)[0] > CLOSE
    for model in (compiled(patched), compiled(tiny_flux())):
        model.set_model_patch_replace(softer, "dit", "double_block", 1)
        assert compare(model, patched)[0] < CLOSE
    assert compare(compiled(tiny_flux()), tiny_flux())[0] < CLOSE


def half_in_single() -> ModelPatcher:
    """Weights in bf16 that are cast to fp32 in each layer: core's manual cast."""
    model = comfy.sd.load_diffusion_model(str(FILE), model_options={"dtype": torch.bfloat16})
    assert {weight.dtype for weight in model.model.diffusion_model.parameters()} == {torch.bfloat16}
    return model


OTHER_WEIGHTS = {
    "bf16": lambda: load(precision="bf16"),
    "manual cast": half_in_single,
    "fp8 scaled": lambda: load(precision="fp8 scaled"),
    "fp8 fast": lambda: load(precision="fp8 fast"),
    "fp8 scaled, computes in fp32": lambda: load(precision="fp8 scaled", compute_dtype="fp32"),
}


@pytest.mark.parametrize("weights", OTHER_WEIGHTS)
def test_other_weights(weights: str, caplog: pytest.LogCaptureFixture) -> None:
    model = OTHER_WEIGHTS[weights]()
    patched = compiled(model)
    difference, new = compare(patched, model)
    assert new == 2
    assert difference < CLOSE
    for settings in ({"latent": empty(1, 20, 16)}, {"latent": empty(3)}, {"cfg": 2.0}):
        difference, new = compare(patched, model, **settings)
        assert new == 0, settings
        assert difference < CLOSE, settings
    (store,) = vars(model.model)[STORE].values()
    assert not store.uncompiled
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
