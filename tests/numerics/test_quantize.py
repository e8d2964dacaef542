"""One weight into core's layouts, and the choice of the layers."""

import comfy.supported_models
import pytest
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor, get_layout_class
from velocity_nodes.acceleration.precision.precisions import NAMES, Precision, check_available, find
from velocity_nodes.acceleration.precision.quantize import (
    block_prefixes,
    choose,
    largest,
    linear_layers,
    needed_to_recognise,
    quantize,
)

from .quantized import QUANTIZING
from .tiny_models import HUNYUAN_VIDEO, UNET

LAYERS = ["img_in", "blocks.0.attn.qkv", "blocks.0.mod.lin", "blocks.1.attn.qkv", "final.linear"]
BLOCKS = ("blocks.",)
LIMITS = {"fp8 scaled": 0.03, "fp8 fast": 0.03, "mxfp8": 0.03, "nvfp4": 0.11, "int8": 0.01}


def weight(rows: int = 2080, columns: int = 256) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02


def restored(precision: Precision, original: torch.Tensor) -> torch.Tensor:
    """The weight as core reads it back."""
    entries = quantize("layer.weight", original, largest("layer.weight", original), precision)
    layout = QUANT_ALGOS[precision.format]["comfy_tensor_layout"]
    cls, shape = get_layout_class(layout), tuple(original.shape)
    scale = entries["layer.weight_scale"]
    if precision.format == "nvfp4":
        scales = {"scale": entries["layer.weight_scale_2"], "block_scale": scale}
    elif precision.format == "int8_tensorwise":
        scales = {"scale": scale, "convrot": True, "convrot_groupsize": 256}
    else:
        scales = {"scale": scale}
    params = cls.Params(**scales, orig_dtype=torch.float32, orig_shape=shape)
    return QuantizedTensor(entries["layer.weight"], layout, params).dequantize()


@pytest.mark.parametrize("name", QUANTIZING)
def test_core_reads_back_what_was_written(name: str) -> None:
    original = weight().float()
    off = (restored(find(name), original) - original).norm() / original.norm()
    assert 0 < off < LIMITS[name]


@pytest.mark.parametrize("name", ["fp8 scaled", "int8"])
def test_rows_at_a_time_are_the_whole_weight_at_once(name: str) -> None:
    if name not in QUANTIZING:
        pytest.skip("this ComfyUI has no int8")
    precision, original = find(name), weight()
    options = {"scale": "recalculate"} if name == "fp8 scaled" else {
        "per_channel": True, "convrot": True, "convrot_groupsize": 256
    }  # fmt: skip
    layout = QUANT_ALGOS[precision.format]["comfy_tensor_layout"]
    whole = QuantizedTensor.from_float(original.float(), layout, **options).state_dict("layer.weight")
    ours = quantize("layer.weight", original, largest("layer.weight", original), precision)
    assert all(torch.equal(ours[key].float(), tensor.float()) for key, tensor in whole.items())


@pytest.mark.parametrize("name", QUANTIZING)
def test_zeros_stay_zeros(name: str) -> None:
    assert not restored(find(name), torch.zeros(32, 256)).any()


@pytest.mark.parametrize(
    ("keep", "chosen"),
    [
        ("auto", {"blocks.0.attn.qkv", "blocks.0.mod.lin", "blocks.1.attn.qkv"}),
        ("auto, *.mod.*", {"blocks.0.attn.qkv", "blocks.1.attn.qkv"}),
        ("none", set(LAYERS)),
        ("*.qkv,img_in", {"blocks.0.mod.lin", "final.linear"}),
    ],
)
def test_choice_of_layers(keep: str, chosen: set[str]) -> None:
    assert choose(LAYERS, BLOCKS, keep) == chosen


@pytest.mark.parametrize(("keep", "says"), [(" , ", "empty"), ("auto, *.qvk", "'\\*.qvk'")])
def test_a_choice_that_means_nothing_names_real_layers(keep: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        choose(LAYERS, BLOCKS, keep)
    assert "blocks.0.attn.qkv" in str(raised.value)


def test_a_model_whose_blocks_nobody_knows() -> None:
    assert block_prefixes(torch.nn.Linear(2, 2)) == ()
    assert choose(LAYERS, (), "none") == set(LAYERS)
    with pytest.raises(ValueError, match="set keep_high_precision to none.*img_in"):
        choose(LAYERS, (), "auto")


def test_layers_of_a_unet() -> None:
    config = {**UNET, "adm_in_channels": None, "use_temporal_attention": False, "dtype": torch.float32}
    kind = comfy.supported_models.SD15(config)
    kind.set_inference_dtype(torch.float32, None)
    weights = kind.get_model({}, "", torch.device("cpu")).diffusion_model.state_dict()
    layers, blocks = linear_layers(weights, kind)
    chosen = choose(layers.values(), blocks, "auto")
    assert any("attn1.to_q" in name for name in chosen) and any(name.startswith("middle_block") for name in chosen)
    assert not any(name.startswith(("time_embed", "label_emb", "out.")) for name in chosen)
    assert "time_embed.0" in layers.values()


def test_the_weights_by_which_core_knows_a_real_sdxl() -> None:
    """Full size, without memory: the width of the text is the width of the first cross attention's keys."""
    config = {
        "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2], "context_dim": 2048,
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "num_head_channels": 64, "image_size": 32,
        "use_linear_in_transformer": True, "use_spatial_transformer": True, "num_classes": "sequential",
        "adm_in_channels": 2816, "use_temporal_attention": False, "use_temporal_resblock": False, "legacy": False,
        "use_checkpoint": False,
    }  # fmt: skip
    kind = comfy.supported_models.SDXL(config)
    kind.set_inference_dtype(torch.bfloat16, None)
    weights = kind.get_model({}, "", torch.device("meta")).diffusion_model.state_dict()
    shapes = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in weights.items()}
    layers, blocks = linear_layers(shapes, kind)
    names = {name for name, layer in layers.items() if layer.startswith(blocks)}
    assert len(names) > 700
    needed = needed_to_recognise(names, shapes, {})
    assert needed == {"input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"}


def test_layers_that_core_renames() -> None:
    """HunyuanVideo's own files call them otherwise; the marks must stand beside the weight in the file."""
    kind = comfy.supported_models.HunyuanVideo({"image_model": "hunyuan_video", **HUNYUAN_VIDEO})
    names = {"double_blocks.0.img_attn_qkv": "double_blocks.0.img_attn.qkv",
             "single_blocks.0.modulation.linear": "single_blocks.0.modulation.lin"}  # fmt: skip
    shapes = {f"{name}.weight": torch.zeros(()).expand(64, 64) for name in names}
    layers, blocks = linear_layers(shapes, kind)
    assert layers == {f"{name}.weight": layer for name, layer in names.items()}
    assert blocks == ("double_blocks.", "single_blocks.")


def test_unknown_precision_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="fp8 scaled"):
        find("fp7")


def test_a_format_that_core_lacks() -> None:
    with pytest.raises(ValueError, match="this ComfyUI has no fp2.*update ComfyUI"):
        check_available(Precision("fp2", "float2"), torch.device("cpu"))


@pytest.mark.parametrize("name", ["fp8 fast", "mxfp8", "nvfp4"])
def test_a_gpu_without_the_tensor_cores(name: str) -> None:
    """Core answers for a GPU; with --cpu it knows of no NVIDIA GPU, so any other device lacks them."""
    with pytest.raises(ValueError, match=f"{name} needs an NVIDIA GPU.*and this is meta; choose fp8 scaled"):
        check_available(find(name), torch.device("meta"))


@pytest.mark.parametrize("name", NAMES)
def test_a_cpu_emulates_what_core_has(name: str) -> None:
    if find(name).format in ("", *QUANT_ALGOS):
        check_available(find(name), torch.device("cpu"))
