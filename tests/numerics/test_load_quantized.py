"""The loader: every precision paints, LoRAs and caches work behind it, and what can't be loaded says why."""

import subprocess
import sys
from pathlib import Path

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.hooks import create_hook_lora, set_conds_props
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS
from comfy_extras.nodes_model_merging import ModelMergeSimple
from safetensors.torch import load_file, save_file
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast
from velocity_nodes.acceleration.precision import weight_stream
from velocity_nodes.acceleration.precision.diffusion_file import inspect
from velocity_nodes.acceleration.precision.precisions import find
from velocity_nodes.acceleration.precision.weight_stream import quantized_weights, stored_weights

from dev.host import ROOT

from .quantized import (
    FILE,
    QUANTIZING,
    call,
    change,
    core_fp8_fast,
    error,
    flux_layout,
    load,
    original,
    quantized_layers,
    same_weights,
    write_random,
)
from .sampling import PROMPT, full_passes, prompt, psnr, run_sampler, sample, stock, tiny_flux

CPU = torch.device("cpu")
FIRST_LAYER = "double_blocks.0.img_attn.qkv"
# Most relative error, least PSNR (dB) of a picture; measured 0.011 and 37, 0.019 and 43, 0.011 and 39, 0.04 and 31,
# 0.005 and 59.
QUALITY = {
    "fp8 scaled": (0.015, 33),
    "fp8 fast": (0.025, 33),
    "mxfp8": (0.015, 33),
    "nvfp4": (0.06, 24),
    "int8": (0.008, 45),
}


def core(**options: object):
    """The model as core's Load Diffusion Model gives it."""
    return comfy.sd.load_diffusion_model(str(FILE), model_options=options)


class TestUnquantised:
    def test_as_stored_is_core_bit_for_bit(self) -> None:
        assert torch.equal(call(load(precision="as stored")), call(core()))

    @pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
    def test_sixteen_bits_are_cores(self, precision: str, dtype: torch.dtype) -> None:
        model, expected = load(precision=precision), core(dtype=dtype)
        assert model.model.diffusion_model.img_in.weight.dtype == dtype
        assert torch.equal(call(model), call(expected))

    @pytest.mark.parametrize("precision", ["as stored", "fp8 scaled"])
    def test_compute_dtype(self, precision: str) -> None:
        model = load(precision=precision, compute_dtype="bf16")
        seen = []
        block = model.model.diffusion_model.double_blocks[0]
        handle = block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["img"].dtype), with_kwargs=True
        )
        assert psnr(stock(), sample(model)) > 30
        handle.remove()
        assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("precision", QUANTIZING)
class TestEveryPrecision:
    def test_is_near_the_original(self, precision: str) -> None:
        model = load(precision=precision)
        most_error, least_psnr = QUALITY[precision]
        assert 0 < error(model, original()) < most_error
        assert psnr(stock(), sample(model)) > least_psnr

    def test_blocks_are_small_and_the_ends_are_not(self, precision: str) -> None:
        layers = quantized_layers(load(precision=precision))
        assert len(layers) == 57
        assert all(name.startswith(("double_blocks.", "single_blocks.")) for name in layers)

    def test_takes_a_lora(self, precision: str) -> None:
        """The change that a LoRA makes is the one it makes on the original model."""
        generator = torch.Generator().manual_seed(1)
        lora = {
            f"diffusion_model.{FIRST_LAYER}.lora_A.weight": torch.randn(4, 128, generator=generator),
            f"diffusion_model.{FIRST_LAYER}.lora_B.weight": torch.randn(384, 4, generator=generator) * 0.3,
        }
        plain, model = sample(tiny_flux()), load(precision=precision)
        on_original, on_small = (comfy.sd.load_lora_for_models(m, None, lora, 1.0, 0)[0] for m in (tiny_flux(), model))
        expected, result = sample(on_original), sample(on_small)
        assert psnr(plain, expected) < 25  # the LoRA changes the picture
        assert psnr(expected, result) > psnr(plain, expected) + 3

    @torch.inference_mode()  # as nodes run
    def test_can_be_merged_on_either_side(self, precision: str) -> None:
        """ModelMergeSimple reads every name in the second model's state dict, scales and notes as well."""
        torch.manual_seed(1)
        half = load(precision="as stored")
        half.add_patches({f"diffusion_model.{FIRST_LAYER}.weight": ("diff", (torch.randn(384, 128),))}, 0.3)

        def merged(one: ModelPatcher, other: ModelPatcher) -> torch.Tensor:
            return sample(ModelMergeSimple().merge(one, other, 0.5)[0])

        expected, model = merged(load(precision="as stored"), half), load(precision=precision)
        assert psnr(stock(), expected) < 30  # the merge changes the picture
        assert psnr(expected, merged(half, model)) > QUALITY[precision][1]
        assert psnr(expected, merged(model, half)) > QUALITY[precision][1]
        assert torch.equal(merged(model, load(precision=precision)).latent, merged(model, model).latent)

    def test_a_lora_hook_is_refused_in_words(self, precision: str) -> None:
        lora = {f"diffusion_model.{FIRST_LAYER}.diff": torch.ones(384, 128)}
        hooks = create_hook_lora(lora, 1.0, 0.0)
        hooked = set_conds_props([prompt(PROMPT)], strength=1.0, set_cond_area="default", hooks=hooks)[0]
        with pytest.raises(ValueError, match="hooked to a prompt.*take Load LoRA"):
            run_sampler(load(precision=precision), hooked, prompt(""), steps=1)

    @pytest.mark.parametrize(
        "cache",
        [
            lambda model: apply_velocity_forecast(model, ForecastConfig(tolerance=0.5)),
            lambda model: apply_first_block_cache(model, FirstBlockCacheConfig(residual_diff_threshold=0.2)),
        ],
        ids=["forecast", "first block"],
    )
    def test_takes_a_cache(self, precision: str, cache) -> None:
        model = load(precision=precision)
        with full_passes(model) as passes:
            cached = sample(cache(model))
        assert len(passes) < 20
        assert psnr(sample(model), cached) > 30


def test_half_the_error_of_cores_fast_fp8() -> None:
    fast = error(core_fp8_fast(), original())
    assert error(load(precision="fp8 fast"), original()) < fast / 2
    assert error(load(precision="fp8 scaled"), original()) < fast / 4


@pytest.mark.parametrize(("keep", "count"), [("auto", 57), ("none", 65), ("auto, *mod*", 42), ("double_blocks.*", 35)])
def test_kept_layers(keep: str, count: int) -> None:
    assert len(quantized_layers(load(keep_high_precision=keep))) == count


def test_layers_by_which_core_knows_the_model_are_never_packed() -> None:
    layers = quantized_layers(load(precision="nvfp4", keep_high_precision="none"))
    assert "img_in" not in layers and 57 < len(layers) < 65


def test_cores_own_layout_gives_the_same_as_that_of_diffusers(tmp_path: Path) -> None:
    assert torch.equal(call(load(flux_layout(tmp_path))), call(load()))


@pytest.mark.parametrize("precision", ["as stored", "fp8 scaled"])
def test_the_diffusion_model_of_a_full_checkpoint(tmp_path: Path, precision: str) -> None:
    others = {"vae.decoder.conv_in.weight": torch.full((4, 4), float("nan")), "v_pred": torch.tensor([])}
    path = flux_layout(tmp_path, "model.diffusion_model.", **others)
    assert torch.equal(call(load(path, precision)), call(load(precision=precision)))


def test_what_tells_core_the_kind_of_model_goes_along(tmp_path: Path) -> None:
    more = {"v_pred": torch.tensor([]), "edm_vpred.sigma_max": torch.tensor(80.0), "vae.x": torch.zeros(2)}
    source = inspect(str(flux_layout(tmp_path, "model.diffusion_model.", **more)))
    for weights in (quantized_weights(source, find("fp8 scaled"), "auto", CPU, CPU), stored_weights(source)[0]):
        assert weights["v_pred"].numel() == 0 and weights["edm_vpred.sigma_max"] == 80
        assert "vae.x" not in weights and "img_in.weight" in weights


def test_other_formats_that_core_reads(tmp_path: Path) -> None:
    path = tmp_path / "tiny.pt"
    torch.save(load_file(FILE), path)
    assert torch.equal(call(load(path)), call(load()))


def test_core_can_load_it_again_for_another_gpu() -> None:
    model = load()
    factory, arguments = model.cached_patcher_init[:2]
    assert torch.equal(call(factory(*arguments, disable_dynamic=True)), call(model))


class TestQuantisedAlready:
    """Files in each of the ways that core marks them."""

    def old_scaled(self, folder: Path, prefix: str = "") -> Path:
        weights, layer = load_file(flux_layout(folder, prefix)), prefix + FIRST_LAYER
        scale = weights[f"{layer}.weight"].abs().max().float() / 448
        weights[f"{layer}.weight"] = (weights[f"{layer}.weight"] / scale).to(torch.float8_e4m3fn)
        weights[f"{layer}.scale_weight"] = scale
        weights[f"{prefix}scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
        if prefix:
            weights["vae.decoder.conv_in.weight"] = torch.zeros(4, 4)
        save_file(weights, folder / "scaled.safetensors")
        return folder / "scaled.safetensors"

    def raw(self, folder: Path) -> Path:
        return flux_layout(folder, dtype=torch.float8_e4m3fn)

    @pytest.mark.parametrize("make", ["old_scaled", "raw"])
    def test_passes_through(self, tmp_path: Path, make: str) -> None:
        path = getattr(self, make)(tmp_path)
        expected = comfy.sd.load_diffusion_model(str(path))
        assert torch.equal(call(load(path, "as stored")), call(expected))

    @pytest.mark.parametrize("precision", ["as stored", "fp8 scaled", "fp8 fast"])
    def test_in_a_full_checkpoint(self, tmp_path: Path, precision: str) -> None:
        alone = load(self.old_scaled(tmp_path), precision)
        full = load(self.old_scaled(tmp_path, "model.diffusion_model."), precision)
        assert same_weights(full, alone)

    @pytest.mark.parametrize("precision", ["bf16", "mxfp8", "nvfp4"])
    def test_is_not_quantised_twice(self, tmp_path: Path, precision: str) -> None:
        with pytest.raises(ValueError, match="quantised already \\(float8_e4m3fn\\).*choose as stored"):
            load(self.old_scaled(tmp_path), precision)

    def test_raw_float8_has_no_scale_to_go_by(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="quantised already \\(raw float8\\).*choose as stored"):
            load(self.raw(tmp_path), "fp8 scaled")

    @pytest.mark.parametrize(("precision", "in_full"), [("fp8 scaled", True), ("fp8 fast", False)])
    def test_scaled_fp8_may_choose_its_multiplication(self, tmp_path: Path, precision: str, in_full: bool) -> None:
        path = self.old_scaled(tmp_path)
        model = load(path, precision)
        stored = load_file(path)[f"{FIRST_LAYER}.weight"]
        layer = model.model.diffusion_model.get_submodule(FIRST_LAYER)
        assert list(quantized_layers(model)) == [FIRST_LAYER]
        assert torch.equal(layer.weight._qdata.float(), stored.float())
        assert layer._full_precision_mm_config == in_full


class TestBadInputs:
    @pytest.mark.parametrize("precision", ["as stored", "fp8 scaled"])
    def test_truncated(self, tmp_path: Path, precision: str) -> None:
        path = tmp_path / "half.safetensors"
        path.write_bytes(FILE.read_bytes()[:-1000])
        with pytest.raises(ValueError, match="half.safetensors is no complete safetensors file.*download it again"):
            load(path, precision)

    @pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>not found</html>", b""])
    @pytest.mark.parametrize("name", ["page.safetensors", "page.ckpt"])
    def test_something_else_with_that_name(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*download it again"):
            load(tmp_path / name)

    @pytest.mark.parametrize(
        ("names", "hint"),
        [
            (["decoder.conv_in.weight", "encoder.conv_in.weight"], "a VAE: put it into models/vae"),
            (["lora_unet_double_blocks_0.lora_down.weight"], "a LoRA: put it into models/loras"),
            (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder: put it into models/text_encoders"),
            (["encoder.block.0.layer.0.SelfAttention.k.weight"], "a text encoder"),
            (["something.weight"], "something.weight"),
        ],
    )
    @pytest.mark.parametrize("precision", ["as stored", "fp8 scaled"])
    def test_another_kind_of_model(self, tmp_path: Path, names: list[str], hint: str, precision: str) -> None:
        path = tmp_path / "other.safetensors"
        save_file({name: torch.zeros(8, 8, 3, 3) for name in names}, path)
        with pytest.raises(ValueError, match=f"holds no diffusion model.*{hint}"):
            load(path, precision)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("precision", ["bf16", "fp8 scaled"])
    def test_weights_that_are_no_numbers(self, tmp_path: Path, value: float, precision: str) -> None:
        path = change(flux_layout(tmp_path), "single_blocks.3.linear1.weight", value)
        with pytest.raises(ValueError, match="single_blocks.3.linear1.weight holds NaN or infinite"):
            load(path, precision)

    def test_weights_too_large_for_fp16(self, tmp_path: Path) -> None:
        path = change(flux_layout(tmp_path), "single_blocks.3.linear1.weight", 1e6)
        with pytest.raises(ValueError, match="single_blocks.3.linear1.weight.*choose bf16"):
            load(path, "fp16")

    def test_a_pattern_that_matches_nothing(self) -> None:
        with pytest.raises(ValueError, match="'\\*.nope'.*double_blocks"):
            load(keep_high_precision="*.nope")

    @pytest.mark.skipif("int8_tensorwise" in QUANT_ALGOS, reason="this ComfyUI has int8")
    def test_a_format_newer_than_this_comfyui(self) -> None:
        with pytest.raises(ValueError, match="this ComfyUI has no int8.*update ComfyUI"):
            load(precision="int8")


@pytest.mark.parametrize("stays", [True, False])
def test_makes_room_before_the_first_weight(monkeypatch: pytest.MonkeyPatch, stays: bool) -> None:
    """For all of it where the weights stay, else for what the work needs; other models may hold the card until then."""
    asked, quantised = [], []
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda size, device: asked.append((size, device)))
    real = weight_stream.quantize
    monkeypatch.setattr(weight_stream, "quantize", lambda *args: quantised.append(len(asked)) or real(*args))
    quantized_weights(inspect(str(FILE)), find("fp8 scaled"), "auto", CPU, CPU if stays else torch.device("meta"))
    ((size, device),) = asked
    assert device == CPU and quantised[0] == 1
    work = size - weight_stream.WORKSPACE
    assert 0 < work < FILE.stat().st_size / 2 or stays and work > FILE.stat().st_size


def test_an_interrupt_ends_it() -> None:
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        load()
    assert quantized_layers(load())  # and the next load is whole


MEASURE = """
import sys, psutil
from pathlib import Path
from dev.host import import_comfyui, import_pack
import_comfyui(); import_pack()
from velocity_nodes.acceleration.precision.load_quantized import LoadConfig, load_diffusion_model
load_diffusion_model(sys.argv[2], LoadConfig(sys.argv[3]))
status = lambda: dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak = lambda: int(status()["VmHWM"].split()[0]) * 1024  # getrusage's has the parent's in it
before = psutil.Process().memory_info().rss
start = peak()
model = load_diffusion_model(sys.argv[1], LoadConfig(sys.argv[3]))
print(start, before, peak(), model.model_size())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux gives it")
def test_peak_memory_is_the_small_model_and_its_largest_tensor(tmp_path: Path) -> None:
    wide, shapes = 3072, {}

    def linear(name: str, inside: int, outside: int) -> None:
        shapes.update({f"{name}.weight": (outside, inside), f"{name}.bias": (outside,)})

    for name, inside in {"img_in": 64, "txt_in": 4096, "time_in.in_layer": 256, "vector_in.in_layer": 768}.items():
        linear(name, inside, wide)
    for name in ("time_in", "vector_in"):
        linear(f"{name}.out_layer", wide, wide)
    for side in ("img", "txt"):
        linear(f"double_blocks.0.{side}_mod.lin", wide, 6 * wide)
        linear(f"double_blocks.0.{side}_attn.qkv", wide, 3 * wide)
        linear(f"double_blocks.0.{side}_attn.proj", wide, wide)
        linear(f"double_blocks.0.{side}_mlp.0", wide, 4 * wide)
        linear(f"double_blocks.0.{side}_mlp.2", 4 * wide, wide)
        for norm in ("query_norm", "key_norm"):
            shapes[f"double_blocks.0.{side}_attn.norm.{norm}.scale"] = (128,)
    linear("single_blocks.0.linear1", wide, 7 * wide)
    linear("single_blocks.0.linear2", 5 * wide, wide)
    linear("single_blocks.0.modulation.lin", wide, 3 * wide)
    for norm in ("query_norm", "key_norm"):
        shapes[f"single_blocks.0.norm.{norm}.scale"] = (128,)
    linear("final_layer.linear", wide, 64)
    linear("final_layer.adaLN_modulation.1", wide, 2 * wide)
    size = write_random(tmp_path / "big.safetensors", shapes)
    assert size > 1e9

    command = [sys.executable, "-c", MEASURE, str(tmp_path / "big.safetensors"), str(FILE), "fp8 scaled"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    start, before, peak, loaded = (int(number) for number in done.stdout.split()[-4:])
    largest = 4 * 7 * wide * wide
    assert peak > start  # what came before does not hide the peak
    assert peak - before < loaded + 2 * largest, f"{loaded / 1e6:.0f} MB, peak {(peak - before) / 1e6:.0f} MB"
