"""What goes beside a diffusion model, run here and on the endpoint: the same bits, and what leaves is named.

Every file has random weights (dev/tiny_side_models.py), and is loaded by ComfyUI's own loaders on both sides.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from branches import GREEN, Branches, Link, jobs_done, run

from dev import tiny_side_models as side
from dev.endpoint import Endpoint
from dev.server import ComfyServer

Sampled = dict[str, Link]  # what a KSampler is given
Build = Callable[[Branches], Sampled]


def flux(b: Branches) -> Sampled:
    return {"model": b.model(), "positive": b.text(), "negative": b.text(GREEN), "latent": b.empty()}


def sd15(b: Branches, unet: str = side.SD_UNET) -> Sampled:
    model = b.add("UNETLoader", unet_name=unet, weight_dtype="default")
    clip = b.add("CLIPLoader", clip_name=side.CLIP, type="stable_diffusion", device="default")
    texts = {name: b.add("CLIPTextEncode", clip=clip, text=f"a {name} cat") for name in ("positive", "negative")}
    return {"model": model, **texts, "latent": b.empty()}


def picture(b: Branches) -> Link:
    return b.add("MaskToImage", mask=b.mask())


def vae(b: Branches, name: str) -> Link:
    return b.add("VAELoader", vae_name=name)


def control_net(b: Branches, name: str) -> Link:
    return b.add("ControlNetLoader", control_net_name=name)


def controlled(b: Branches, sampled: Sampled, net: Link, node: str = "ControlNetApplyAdvanced", **more: Any) -> Sampled:
    both = {"positive": sampled["positive"], "negative": sampled["negative"]}
    numbers = {"strength": 0.8, "start_percent": 0.0, "end_percent": 0.8}
    applied = b.add(node, **both, control_net=net, image=picture(b), **numbers, **more)
    return {**sampled, "positive": applied, "negative": [applied[0], 1]}


def flux_control(b: Branches) -> Sampled:
    return controlled(b, flux(b), control_net(b, side.FLUX_CONTROL))


def flux_union(b: Branches) -> Sampled:
    union = b.add("SetUnionControlNetType", control_net=control_net(b, side.FLUX_UNION), type="depth")
    return controlled(b, flux(b), union, vae=vae(b, side.FLUX_VAE))


def flux_alimama(b: Branches) -> Sampled:
    more = {"vae": vae(b, side.FLUX_VAE), "mask": b.mask()}
    return controlled(b, flux(b), control_net(b, side.FLUX_ALIMAMA), "ControlNetInpaintingAliMamaApply", **more)


def flux_reference(b: Branches) -> Sampled:
    sampled = flux(b)
    latent = b.add("VAEEncode", pixels=picture(b), vae=vae(b, side.FLUX_VAE))
    return {**sampled, "positive": b.add("ReferenceLatent", conditioning=sampled["positive"], latent=latent)}


def flux_fill_plain(b: Branches) -> Sampled:
    return {**flux(b), "model": b.add("UNETLoader", unet_name=side.FLUX_FILL, weight_dtype="default")}


def flux_fill(b: Branches) -> Sampled:
    return inpainted(b, flux_fill_plain(b), side.FLUX_VAE)


def inpainted(b: Branches, sampled: Sampled, vae_name: str) -> Sampled:
    both = {"positive": sampled["positive"], "negative": sampled["negative"]}
    pixels, mask = picture(b), b.mask()
    made = b.add("InpaintModelConditioning", **both, vae=vae(b, vae_name), pixels=pixels, mask=mask, noise_mask=True)
    return {**sampled, "positive": made, "negative": [made[0], 1], "latent": [made[0], 2]}


def sd_control(b: Branches) -> Sampled:
    return controlled(b, sd15(b), control_net(b, side.SD_CONTROL))


def sd_two_controls(b: Branches) -> Sampled:
    return controlled(b, sd_control(b), control_net(b, side.SD_CONTROL_LORA))


def sd_diff(b: Branches) -> Sampled:
    sampled = sd15(b)
    return controlled(b, sampled, b.add("DiffControlNetLoader", model=sampled["model"], control_net_name=side.SD_DIFF))


def sd_inpaint_plain(b: Branches) -> Sampled:
    return sd15(b, side.SD_INPAINT)


def sd_inpaint(b: Branches) -> Sampled:
    return inpainted(b, sd_inpaint_plain(b), side.SD_VAE)


def sd_vae_inpaint(b: Branches) -> Sampled:
    encoded = b.add("VAEEncodeForInpaint", pixels=picture(b), vae=vae(b, side.SD_VAE), mask=b.mask(), grow_mask_by=6)
    return {**sd15(b), "latent": encoded}


def sd_gligen(b: Branches) -> Sampled:
    sampled = sd15(b)
    (clip,) = [name for name, node in b.graph.items() if node["class_type"] == "CLIPLoader"]
    gligen, box = b.add("GLIGENLoader", gligen_name=side.GLIGEN), {"width": 32, "height": 32, "x": 8, "y": 8}
    links = {"conditioning_to": sampled["positive"], "clip": [clip, 0], "gligen_textbox_model": gligen}
    return {**sampled, "positive": b.add("GLIGENTextBoxApply", **links, text="a hat", **box)}


def seen(b: Branches, name: str = side.CLIP_VISION) -> Link:
    encoder = b.add("CLIPVisionLoader", clip_name=name)
    return b.add("CLIPVisionEncode", clip_vision=encoder, image=picture(b), crop="center")


def sd_style(b: Branches) -> Sampled:
    sampled, style = sd15(b), b.add("StyleModelLoader", style_model_name=side.STYLE)
    links = {"conditioning": sampled["positive"], "style_model": style, "clip_vision_output": seen(b)}
    return {**sampled, "positive": b.add("StyleModelApply", **links, strength=1.0, strength_type="multiply")}


def unclip_plain(b: Branches) -> Sampled:
    model = b.add("UNETLoader", unet_name=side.SD_UNCLIP, weight_dtype="default")
    positive, negative = (b.add("OffloadTestText", text=text, width=1024) for text in ("a cat", "a dog"))
    return {"model": model, "positive": positive, "negative": negative, "latent": b.empty()}


def unclip(b: Branches) -> Sampled:
    sampled = unclip_plain(b)
    links = {"conditioning": sampled["positive"], "clip_vision_output": seen(b)}
    return {**sampled, "positive": b.add("unCLIPConditioning", **links, strength=1.0, noise_augmentation=0.1)}


def flux_wide(b: Branches) -> Sampled:
    model = b.add("UNETLoader", unet_name=side.FLUX_WIDE, weight_dtype="default")
    positive, negative = (b.add("OffloadTestText", text=text, width=4096) for text in ("a cat", "a dog"))
    return {"model": model, "positive": positive, "negative": negative, "latent": b.empty()}


def flux_redux(b: Branches) -> Sampled:
    sampled, style = flux_wide(b), b.add("StyleModelLoader", style_model_name=side.REDUX)
    links = {"conditioning": sampled["positive"], "style_model": style, "clip_vision_output": seen(b, side.SIGLIP)}
    return {**sampled, "positive": b.add("StyleModelApply", **links, strength=0.5, strength_type="attn_bias")}


def wan_plain(b: Branches, **links: Link) -> Sampled:
    sampled = flux_wide(b)
    model = b.add("UNETLoader", unet_name=side.WAN_I2V, weight_dtype="default")
    size = {"width": 32, "height": 32, "length": 5, "batch_size": 1}
    texts = {name: sampled[name] for name in ("positive", "negative")}
    made = b.add("WanImageToVideo", **texts, vae=vae(b, side.WAN_VAE), **size, **links)
    return {"model": model, "positive": made, "negative": [made[0], 1], "latent": [made[0], 2]}


def wan_image_to_video(b: Branches) -> Sampled:
    return wan_plain(b, start_image=picture(b), clip_vision_output=seen(b, side.CLIP_VISION_H))


APPLY, FILL = "ControlNetApplyAdvanced.image", "InpaintModelConditioning"
ALIMAMA = [f"ControlNetInpaintingAliMamaApply.{name}" for name in ("image", "mask")]
MASKS = ["CONDITIONING [0][0][1].concat_mask"] * 2 + ["LATENT [0].noise_mask"]
# What is built, what it is compared with, and the pixels and the prompt text that leave for it.
CASES: list[tuple[Build, Build, list[str], list[str]]] = [
    (flux_control, flux, [APPLY], []),
    (flux_union, flux, [APPLY], []),
    (flux_alimama, flux, ALIMAMA, []),
    (flux_reference, flux, [], []),
    (flux_fill, flux_fill_plain, MASKS, []),
    (sd_control, sd15, [APPLY], []),
    (sd_two_controls, sd15, [APPLY] * 2, []),
    (sd_diff, sd15, [APPLY], []),
    (sd_inpaint, sd_inpaint_plain, MASKS, []),
    (sd_vae_inpaint, sd15, ["LATENT [0].noise_mask"], []),
    (sd_gligen, sd15, [], ["GLIGENTextBoxApply.text"]),
    (unclip, unclip_plain, [], []),
]
ENCODED = ["CLIPTextEncode.text"] * 2
TEXT_THERE: list[tuple[Build, Build, list[str], list[str]]] = [
    (sd_two_controls, sd15, [APPLY] * 2, ENCODED),
    (sd_inpaint, sd_inpaint_plain, [f"{FILL}.pixels", f"{FILL}.mask"], ENCODED),
    (sd_style, sd15, [], ENCODED),  # what CLIP vision sees in a picture is a cut there
]


@pytest.mark.parametrize("build, plain, pixels, texts", CASES, ids=[case[0].__name__ for case in CASES])
def test_the_same_bits(
    client: ComfyServer, endpoint: Endpoint, build: Build, plain: Build, pixels: list[str], texts: list[str]
) -> None:
    check(client, endpoint, build, plain, pixels, texts)


@pytest.mark.parametrize("build, plain, pixels, texts", TEXT_THERE, ids=[case[0].__name__ for case in TEXT_THERE])
def test_the_same_bits_with_text_there(
    client: ComfyServer, endpoint: Endpoint, build: Build, plain: Build, pixels: list[str], texts: list[str]
) -> None:
    check(client, endpoint, build, plain, pixels, texts, text_encoding="remote")


@pytest.mark.soak("the vision encoders have their real sizes, which takes seconds for one picture")
@pytest.mark.parametrize(
    "build, plain, pixels",
    [(sd_style, sd15, []), (flux_redux, flux_wide, []), (wan_image_to_video, wan_plain, MASKS[:2])],
)
def test_what_sees_a_picture(
    client: ComfyServer, endpoint: Endpoint, build: Build, plain: Build, pixels: list[str]
) -> None:
    check(client, endpoint, build, plain, pixels, [])


def check(
    client: ComfyServer,
    endpoint: Endpoint,
    build: Build,
    plain: Build,
    pixels: list[str],
    texts: list[str],
    **widgets: Any,
) -> None:
    """Check that it is the same here and there and not what `plain` makes, and what left for it."""
    there, account = run_there(client, endpoint, build, **widgets)
    assert (account["pixels"], account["prompt_text"], account["sound"]) == (pixels, texts, [])
    said = f"pixels ({', '.join(pixels)})" if pixels else "no pixels"
    assert account["statement"].startswith(said)
    here = run_here(client, build)
    assert torch.equal(there, here)
    assert here.isfinite().all() and float(here.std()) > 0.01
    assert not torch.equal(here, run_here(client, plain)), "it changes the picture"


def run_here(client: ComfyServer, build: Build) -> torch.Tensor:
    branches = Branches(remote=False)
    branches.save("last", branches.ksampler(*build(branches).values(), cfg=2.0))
    return run(client, branches)["last"]


def run_there(client: ComfyServer, endpoint: Endpoint, build: Build, **widgets: Any) -> tuple[torch.Tensor, dict]:
    """Return the latent that the endpoint made, and the account of what left."""
    branches = Branches(remote=True, **widgets)
    branches.save("last", branches.offload(branches.ksampler(*build(branches).values(), cfg=2.0)))
    folder, before = client.folder / "user" / "__velocity" / "egress", jobs_done(endpoint)
    known = set(folder.glob("*.json"))
    latent = run(client, branches)["last"]
    (file,) = set(folder.glob("*.json")) - known
    account = json.loads(file.read_text(encoding="utf-8"))
    assert jobs_done(endpoint) == before + 1 and account["state"] == "done"
    assert "KSampler" in {node["class_type"] for node in account["graph"].values()}
    return latent, account
