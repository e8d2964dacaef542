"""Run by test_compile.py: code of other nodes inside blocks comes and goes; what was compiled stays compiled."""

from collections.abc import Callable

import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_nag import NAGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT
from velocity_nodes.acceleration.compiling.compile import STORE

from .compile_models import UNET_KINDS, run_unet
from .compiling import CLOSE, compare, compiled, error, forget, graphs
from .sampling import empty, run_sampler, tiny_flux
from .techniques import FIRST_BLOCK
from .test_cache_models import build
from .tiny_models import UNET, Draw

KINDS = 2  # of blocks in Flux
DOES_NOT_FIT = "runs uncompiled where"


@pytest.fixture(scope="module")
def warm() -> ModelPatcher:
    """A compiled model behind a plain run."""
    forget()
    model = compiled(tiny_flux())
    run_sampler(model, steps=1)
    assert graphs() == KINDS
    return model


def with_nag(model: ModelPatcher, scale: float) -> ModelPatcher:
    return NAGuidance.execute(model, scale, 0.5, 1.5).result[0]


def with_bypass_lora(model: ModelPatcher, strength: float, rank: int = 4) -> ModelPatcher:
    """Return a clone behind LoraLoaderBypass with a seeded LoRA of one layer in each kind of block."""
    draw, lora = Draw(5), {}
    for layer in ("double_blocks.0.img_attn.qkv", "single_blocks.5.linear1"):
        outputs, inputs = model.model.state_dict()[f"diffusion_model.{layer}.weight"].shape
        lora[f"diffusion_model.{layer}.lora_up.weight"] = draw(outputs, rank)
        lora[f"diffusion_model.{layer}.lora_down.weight"] = draw(rank, inputs)
    return comfy.sd.load_bypass_lora_for_models(model, None, lora, strength, 0)[0]


def with_override(model: ModelPatcher, override: Callable) -> ModelPatcher:
    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def check(model: ModelPatcher, plain: ModelPatcher, **settings: object) -> int:
    """Sample with both; return how many graphs that took. The results must agree."""
    difference, new = compare(model, plain, **settings)
    assert difference < CLOSE, settings
    return new


def check_plain(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    """A plain run is compiled as before."""
    caplog.clear()
    assert check(warm, tiny_flux(), cfg=2.0) == 0
    (store,) = vars(warm.model)[STORE].values()
    assert not store.uncompiled
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_normalized_attention_guidance(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"cfg": 3.0}  # it acts where both prompts are in one batch
    assert compare(tiny_flux(), with_nag(tiny_flux(), 5.0), **settings)[0] > 0.1, "this proves nothing"
    assert check(with_nag(compiled(tiny_flux()), 5.0), with_nag(tiny_flux(), 5.0), **settings) == KINDS
    assert DOES_NOT_FIT not in caplog.text
    for change in ({}, {"latent": empty(2)}, {"latent": empty(1, 20, 16)}, {"cfg": 1.0}):
        assert check(with_nag(warm, 7.0), with_nag(tiny_flux(), 7.0), **{**settings, **change}) == 0
    assert caplog.text.count(DOES_NOT_FIT) == KINDS
    check_plain(warm, caplog)


def test_a_bypass_lora_of_any_strength(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    assert compare(tiny_flux(), with_bypass_lora(tiny_flux(), 1.0))[0] > 10 * CLOSE, "this proves nothing"
    taken = [
        check(with_bypass_lora(warm, strength), with_bypass_lora(tiny_flux(), strength))
        for strength in (0.5, 1.0, -0.3, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3)
    ]
    assert taken == [KINDS, *[0] * 8]
    assert check(with_bypass_lora(warm, 0.7, rank=8), with_bypass_lora(tiny_flux(), 0.7, rank=8)) <= KINDS
    assert caplog.text.count(DOES_NOT_FIT) == KINDS
    check_plain(warm, caplog)


def test_patches_around_blocks_take_no_graph(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    def skipping(model: ModelPatcher) -> ModelPatcher:
        return SkipLayerGuidanceDiT.execute(model, 3.0, 0.0, 1.0, "1", "3").result[0]

    def louder(args: dict) -> dict:
        return {**args, "img": args["img"] * 1.01}

    patched = tiny_flux().clone()
    patched.set_model_patch(louder, "double_block")
    model = warm.clone()
    model.set_model_patch(louder, "double_block")
    assert check(model, patched) == 0
    assert check(skipping(warm), skipping(tiny_flux()), cfg=3.0) == 0
    check_plain(warm, caplog)


def test_entries_of_the_options_that_no_block_reads_take_no_graph(warm: ModelPatcher) -> None:
    """Loop, tiling and STG nodes add some, and the number of reference images is one."""
    for entries in ({"an entry": 1}, {"an entry": 2, "others": [1.5]}, {"reference_image_num_tokens": [3]}):
        model = warm.clone()
        model.model_options["transformer_options"].update(entries)
        assert check(model, tiny_flux()) == 0


def test_another_attention_is_compiled_as_well(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    def sharper(model: ModelPatcher) -> ModelPatcher:
        return with_override(model, lambda attention, q, *others, **named: attention(q * 1.1, *others, **named))

    changes = (
        {},
        {"seed": 4},
        {"steps": 4},
        {"cfg": 2.0},
        {"latent": empty(3, 20, 16)},
        {"cfg": 2.0, "latent": empty(2)},
    )
    assert [check(sharper(warm), sharper(tiny_flux()), **change) for change in changes] == [KINDS, *[0] * 5]
    check_plain(warm, caplog)


def test_an_attention_that_changes_all_the_time(warm: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
    def by_place(attention: Callable, q: torch.Tensor, *others: object, **named: object) -> torch.Tensor:
        louder = (1.0, 1.1, 1.2)[named["transformer_options"]["block_index"] % 3]
        return attention(q * louder, *others, **named)

    taken = [check(with_override(warm, by_place), with_override(tiny_flux(), by_place)) for _ in range(2)]
    assert taken == [2 * KINDS, 0]
    assert caplog.text.count(DOES_NOT_FIT) == KINDS
    check_plain(warm, caplog)


class TinySDXL(comfy.supported_models.SDXL):
    unet_extra_config = {}  # noqa: RUF012 - core's, which asks for wider heads


def test_first_block_cache_on_a_unet() -> None:
    """Its own patches lie between the blocks."""
    settings = {**UNET, "num_classes": "sequential", "adm_in_channels": 2816, "use_temporal_attention": False}
    unet, before = build(TinySDXL, settings), graphs()
    cached = FIRST_BLOCK.apply(compiled(unet))
    assert error(run_unet(cached, steps=8), run_unet(FIRST_BLOCK.apply(unet), steps=8)) < CLOSE
    assert graphs() - before == UNET_KINDS
    (store,) = vars(unet.model)[STORE].values()
    assert not store.uncompiled


def test_the_limit_of_graphs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_flux.__wrapped__()
    with torch._dynamo.config.patch(recompile_limit=2):
        patched = compiled(model, dynamic="off")
        taken = [check(patched, tiny_flux(), latent=empty(1, height, 16)) for height in (16, 20, 24, 16, 20)]
    assert taken == [KINDS, KINDS, 0, 0, 0]
    assert caplog.text.count(DOES_NOT_FIT) == KINDS
