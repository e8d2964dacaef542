"""Step caches in one graph with other nodes: LoRA, other caches, other patches, compiled models, split guidance."""

import subprocess
import sys
from pathlib import Path

import comfy.sd
import comfyui_version
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from .sampling import full_passes, last_record, psnr, sample, stock, tiny_flux
from .techniques import TECHNIQUES, Technique, both_nodes, each

REFERENCE = tuple(int(part) for part in comfyui_version.__version__.split(".")) >= (0, 30, 0)
FLOOR = 30.0


def with_lora(model):
    """Return a clone with a small LoRA on three layers, through core's loader."""
    generator, lora = torch.Generator().manual_seed(6), {}
    for layer in ("double_blocks.0.img_attn.qkv", "double_blocks.2.img_mlp.0", "single_blocks.5.linear1"):
        rows, columns = model.model.diffusion_model.get_submodule(layer).weight.shape
        lora[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
        lora[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * 0.3
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


@each
def test_lora_before_or_after(technique: Technique) -> None:
    reference = sample(with_lora(tiny_flux()))
    assert psnr(stock(), reference) < 30, "this LoRA changes nothing: it proves nothing"
    before, after = sample(technique.apply(with_lora(tiny_flux()))), sample(with_lora(technique.apply(tiny_flux())))
    assert torch.equal(before.latent, after.latent)
    assert len(before.passes) < 20
    assert psnr(reference, before) > FLOOR
    assert torch.equal(sample(tiny_flux()).latent, stock().latent)


def _easy(model):
    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]


def _lazy(model):
    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result[0]


OTHERS = {"EasyCache": _easy, "LazyCache": _lazy, **{other.name: other.apply for other in TECHNIQUES[:2]}}


@each
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("node_order", ["ours first", "ours last"])
def test_two_step_caches_are_one_clear_error(technique: Technique, other: str, node_order: str) -> None:
    first, second = technique.apply, OTHERS[other]
    if node_order == "ours last":
        first, second = second, first
    with (
        full_passes(tiny_flux()) as seen,
        pytest.raises(ValueError, match="two step caches.*remove or bypass") as caught,
    ):
        sample(second(first(tiny_flux())))
    assert not seen  # before anything is computed
    assert (other if "Cache" in other else "Velocity Forecast or First Block Cache") in str(caught.value)
    assert torch.equal(sample(tiny_flux()).latent, stock().latent)


@each
def test_a_function_wrapper_of_another_node(technique: Technique) -> None:
    """The one wrapper slot around the model belongs to others; it is called as often as the model."""
    calls = []

    def louder(apply_model, args: dict) -> torch.Tensor:
        calls.append(1)
        return apply_model(args["input"], args["timestep"], **args["c"]) * 1.05

    wrapped = tiny_flux().clone()
    wrapped.set_model_unet_function_wrapper(louder)
    reference = sample(wrapped)
    calls.clear()
    result = sample(technique.apply(wrapped))
    assert len(result.passes) < 20
    assert len(calls) == (20 if technique.probes else len(result.passes)) or technique.probes
    assert psnr(stock(), reference) < 30
    assert psnr(reference, result) > FLOOR


@both_nodes
@pytest.mark.parametrize("block", [("double_block", 0), ("double_block", 2), ("single_block", 8)], ids=str)
def test_block_replacements_of_another_node(technique: Technique, block: tuple[str, int]) -> None:
    def louder(args: dict, extra: dict) -> dict:
        output = extra["original_block"](args)
        return {**output, "img": output["img"] * 1.02}

    replaced = tiny_flux().clone()
    replaced.set_model_patch_replace(louder, "dit", *block)
    reference, result = sample(replaced), sample(technique.apply(replaced))
    assert not torch.equal(reference.latent, stock().latent)
    assert len(result.passes) < 20
    assert psnr(reference, result) > FLOOR


@pytest.mark.skipif(not REFERENCE, reason="MultiGPU CFG Split came with ComfyUI 0.30")
@each
def test_multi_gpu_cfg_split(technique: Technique) -> None:
    """Cond and uncond on two devices, each in its thread; the CPU under a second name stands in for a second GPU."""

    def split(model):
        model = model.clone()
        other = model.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
        other.is_multigpu_base_clone = True
        model.set_additional_models("multigpu", [other])
        model.match_multigpu_clones()
        return model

    reference = stock(cfg=2.0)
    on_two = split(tiny_flux())
    assert set(sample(on_two, cfg=2.0, steps=2).passes) == {1}  # this device saw one of the two
    on_one, on_two = technique.apply(tiny_flux()), split(technique.apply(tiny_flux()))
    alone, result = sample(on_one, cfg=2.0), sample(on_two, cfg=2.0)
    assert last_record(on_one).full == last_record(on_two).full < 20
    assert psnr(alone, result) > 60
    assert psnr(reference, result) > FLOOR


def test_torch_compile() -> None:
    """In a process of its own: compiling needs ComfyUI started with --use-pytorch-cross-attention."""
    command = [sys.executable, str(Path(__file__).with_name("compiled_run.py"))]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    *runs, refusal = done.stdout.splitlines()
    assert len(runs) == 4
    for run in runs:
        full, quality = run.split()
        assert int(full) < 12
        assert float(quality) > FLOOR
    assert "compiled as a whole; choose 'output forecast'" in refusal
