"""Models with random weights that go beside a diffusion model, in files that ComfyUI's own loaders take for real ones.

ComfyUI tells a model by the names and shapes in its file. Where it takes the sizes from there, they are tiny. Where it
fixes them (a UNet of 320 channels, CLIP, CLIP vision, the style adapter), the model is as large as it is, and its file
is a `.pt` all the same small: each matrix in it is a window that slides over a row of numbers (a Hankel matrix).
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
FLUX_CONTROL, FLUX_UNION, FLUX_ALIMAMA = (f"tiny_flux_{kind}.safetensors" for kind in ("control", "union", "alimama"))
FLUX_FILL, FLUX_VAE = "tiny_flux_fill.safetensors", "tiny_flux_vae.safetensors"
SD_UNET, SD_INPAINT, SD_UNCLIP = "random_sd15.pt", "random_sd15_inpaint.pt", "random_sd21_unclip.pt"
SD_CONTROL, SD_DIFF, SD_CONTROL_LORA = "random_sd15_control.pt", "random_sd15_diff.pt", "random_sd15_control_lora.pt"
SD_VAE, GLIGEN, CLIP = "tiny_sd15_vae.safetensors", "random_gligen.pt", "random_clip_l.pt"
CLIP_VISION, STYLE = "random_clip_vision.pt", "random_style.pt"
CLIP_VISION_H, SIGLIP, REDUX = "random_clip_vision_h.pt", "random_siglip.pt", "random_redux.pt"
FLUX_WIDE = "tiny_flux_wide_text.safetensors"  # with as wide a text as the Redux model makes
WAN_VACE, WAN_I2V, WAN_VAE = (f"tiny_wan_{kind}.safetensors" for kind in ("vace", "i2v", "vae"))
FOLDERS = ("clip_vision", "controlnet", "diffusion_models", "gligen", "style_models", "text_encoders", "vae")

FLUX = {  # as wide as the trained tiny model of the demo
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 1, "depth": 1, "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
UNET = {  # one level with one block on each side; ComfyUI knows SD 1.5 by 320 channels and a text of 768
    "image_size": 32, "in_channels": 4, "model_channels": 320, "num_res_blocks": [1], "channel_mult": [1],
    "transformer_depth": [1], "transformer_depth_middle": -1, "context_dim": 768, "num_heads": 8,
    "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
UNCLIP = {
    **UNET, "context_dim": 1024, "use_linear_in_transformer": True, "num_classes": "sequential",
    "adm_in_channels": 1536, "num_heads": -1, "num_head_channels": 64,
}  # fmt: skip
WAN = {"out_dim": 16, "dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 2}
WAN_ENCODER = {"dim": 8, "z_dim": 16, "temperal_downsample": [False, True, True]}


def write_models(folder: Path) -> None:
    """Write all models into the subfolders of `folder` that ComfyUI looks for them in."""
    _write_flux(folder)
    _write_sd(folder)
    _write_clip(folder)
    _write_wan(folder)


def write_paths(folder: Path) -> Path:
    """Return a file for ComfyUI's `--extra-model-paths-config` that names the subfolders."""
    paths = folder / "paths.yaml"
    paths.write_text(json.dumps({"side models": {name: str(folder / name) for name in FOLDERS}}), encoding="utf-8")
    return paths


def _write_flux(folder: Path) -> None:
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from comfy.ldm.flux.model import Flux

    fill, wide = {**FLUX, "in_channels": 96, "guidance_embed": True}, {**FLUX, "context_in_dim": 4096}
    for file, config in ((FLUX_FILL, fill), (FLUX_WIDE, wide)):
        _save(folder / "diffusion_models" / file, _weights(lambda o, config=config: Flux(**config, **o)))
    xlabs = _weights(lambda o: ControlNetFlux(**FLUX, **o))
    names = {name: name.replace("_norm.weight", "_norm.scale") for name in xlabs}
    _save(folder / "controlnet" / FLUX_CONTROL, {names[name]: value for name, value in xlabs.items()})
    for file, options in (
        (FLUX_UNION, {"num_union_modes": 8, "control_latent_channels": 16}),
        (FLUX_ALIMAMA, {"control_latent_channels": 17}),
    ):
        own = _weights(lambda o, options=options: ControlNetFlux(latent_input=True, **options, **FLUX, **o))
        _save(folder / "controlnet" / file, _as_diffusers(own))
    _save(folder / "vae" / FLUX_VAE, _taesd(channels=16))


def _write_sd(folder: Path) -> None:
    from comfy.cldm.cldm import ControlNet
    from comfy.gligen import GatedSelfAttentionDense, PositionNet
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    def unet(config: dict[str, Any]) -> State:
        return _weights(lambda o: UNetModel(out_channels=4, transformer_depth_output=[1, 0], **config, **o))

    models = folder / "diffusion_models"
    for file, config in ((SD_UNET, UNET), (SD_INPAINT, {**UNET, "in_channels": 9}), (SD_UNCLIP, UNCLIP)):
        _save(models / file, unet(config))
    control = _weights(lambda o: ControlNet(hint_channels=3, **UNET, **o))
    _save(folder / "controlnet" / SD_CONTROL, control)
    diff = {f"control_model.{name}": value for name, value in control.items()}
    _save(folder / "controlnet" / SD_DIFF, {**diff, "difference": torch.ones(1)})
    own = {name: value for name, value in control.items() if not name.startswith(("input_blocks", "time_embed"))}
    sides = {"time_embed.0.up": (1280, 4), "time_embed.0.down": (4, 320)}
    lora = {name: _draw(shape, torch.Generator().manual_seed(1)) for name, shape in sides.items()}
    _save(folder / "controlnet" / SD_CONTROL_LORA, {**own, **lora, "lora_controlnet": torch.ones(1)})
    _save(folder / "vae" / SD_VAE, _taesd(channels=4))

    boxes = {f"position_net.{name}": value for name, value in _weights(lambda _: PositionNet(768, 768)).items()}
    for block in ("input_blocks.1.1", "output_blocks.0.1"):
        fuser = _weights(lambda _: GatedSelfAttentionDense(320, 768, 8, 40))
        boxes |= {f"{block}.transformer_blocks.0.fuser.{name}": value for name, value in fuser.items()}
    _save(folder / "gligen" / GLIGEN, boxes)


def _write_clip(folder: Path) -> None:
    import comfy.clip_model
    import comfy.clip_vision
    import comfy.sd1_clip
    from comfy.ldm.flux.redux import ReduxImageEncoder
    from comfy.t2i_adapter.adapter import StyleAdapter

    def read(module: Any, name: str) -> dict[str, Any]:
        return json.loads(Path(module.__file__).with_name(name).read_text(encoding="utf-8"))

    text = read(comfy.sd1_clip, "sd1_clip_config.json")
    _save(folder / "text_encoders" / CLIP, _weights(lambda o: comfy.clip_model.CLIPTextModel(text, **o)))
    for file, kind in ((CLIP_VISION, "config_vitl"), (CLIP_VISION_H, "config_h"), (SIGLIP, "siglip_384")):
        config = read(comfy.clip_vision, f"clip_vision_{kind}.json")
        seeing = _weights(lambda o, config=config: comfy.clip_model.CLIPVisionModelProjection(config, **o))
        _save(folder / "clip_vision" / file, seeing)
    _save(folder / "style_models" / STYLE, _weights(lambda _: StyleAdapter(context_dim=768, num_token=8)))
    _save(folder / "style_models" / REDUX, _weights(lambda _: ReduxImageEncoder()))


def _write_wan(folder: Path) -> None:
    from comfy.ldm.wan.model import VaceWanModel, WanModel
    from comfy.ldm.wan.vae import WanVAE

    vace = {"model_type": "vace", "in_dim": 16, "vace_layers": 1, "vace_in_dim": 96}
    _save(folder / "diffusion_models" / WAN_VACE, _weights(lambda o: VaceWanModel(**WAN, **vace, **o)))
    i2v = {"model_type": "i2v", "in_dim": 36}
    _save(folder / "diffusion_models" / WAN_I2V, _weights(lambda o: WanModel(**WAN, **i2v, **o)))
    _save(folder / "vae" / WAN_VAE, _weights(lambda _: WanVAE(**WAN_ENCODER)))


def _taesd(channels: int) -> State:
    from comfy.taesd.taesd import TAESD

    return _weights(lambda _: TAESD(latent_channels=channels))


def _as_diffusers(own: State) -> State:
    """Return a Flux ControlNet's state dict with the names of diffusers, which InstantX' files have."""
    from comfy.utils import flux_to_diffusers

    known = flux_to_diffusers({name: FLUX[name] for name in ("depth", "depth_single_blocks", "hidden_size")})
    named: State = {}
    waiting = set(own)
    for name, target in known.items():
        if isinstance(target, str):
            if target in waiting:  # of several names for the same the first
                waiting.remove(target)
                named[name] = own[target]
        elif target[0] in own and len(target) == 2:
            named[name] = own[target[0]].narrow(*target[1])
    kept = {name: value for name, value in own.items() if name.startswith("controlnet_")}
    return {**named, **kept}


def _weights(build: Callable[[dict[str, Any]], torch.nn.Module]) -> State:
    """Return random weights for the module that `build` makes of ComfyUI's usual options."""
    import comfy.ops

    with torch.device("meta"):
        options = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
        module = build(options)
    draw = torch.Generator().manual_seed(0)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    return {name: _draw(shape, draw, is_scale=name.endswith(("weight", "scale"))) for name, shape in shapes.items()}


def _draw(shape: tuple[int, ...], draw: torch.Generator, is_scale: bool = False) -> torch.Tensor:
    """Return normal numbers: a matrix keeps the variance of its input, a vector is near 1 or 0."""
    if len(shape) < 2:
        return 0.1 * torch.randn(shape, generator=draw) + (1.0 if is_scale or not shape else 0.0)
    strides = list(itertools.accumulate(reversed(shape[2:]), initial=1, func=lambda a, b: a * b))[::-1]
    row = shape[1] * strides[0]
    return torch.as_strided(torch.randn(row + shape[0] - 1, generator=draw) * row**-0.5, shape, (1, *strides))


def _save(file: Path, state: State) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_file({name: value.clone(memory_format=torch.contiguous_format) for name, value in state.items()}, file)
    else:
        torch.save(state, file)
