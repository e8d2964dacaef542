"""The graphs behind `workflows/` and `demo/workflows/`, in API format; `dev/author_workflows.py` makes the files.

Inputs that a node does not name here keep their defaults. Places are pixels on the canvas.
"""

from dataclasses import dataclass

from .server import TINY_MODEL as TINY

FLUX, CLIP = "flux1-dev.safetensors", "clip_l.safetensors"
T5, VAE = "t5xxl_fp16.safetensors", "ae.safetensors"
_HUB = "https://huggingface.co"
MODELS = {  # file -> folder below models, and where a user gets it: the frontend offers to download what is missing
    FLUX: ("diffusion_models", f"{_HUB}/Comfy-Org/flux1-dev/resolve/main/{FLUX}"),
    CLIP: ("text_encoders", f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/{CLIP}"),
    T5: ("text_encoders", f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/{T5}"),
    VAE: ("vae", f"{_HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/{VAE}"),
}
SAMPLING = {"seed": 2, "steps": 28, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
LANDSCAPE = "a lighthouse on a rocky coast at dawn, warm light in the windows, waves, photograph, 35 mm"
SHAPES = "a large red circle at the left on a blue background"
TECHNIQUES = {  # file name -> the technique's node and the inputs it is shown with
    "velocity_forecast": ("VelocityForecast", {"preset": "balanced"}),
    "first_block_cache": ("VelocityFirstBlockCache", {"preset": "balanced"}),
}
NOTE = """**{title}** sits between the model loader and the sampler. Everything else is a stock graph: bypass the node \
(Ctrl+B) and you get the stock picture.

Run it: **Speed Report** shows which steps were skipped and the time that saved.

To measure how near the picture is to the stock one: bypass the node, run, save the picture, load it with Load Image \
into **reference**, connect this picture to **result**, switch the node on again and run with the same seed."""


@dataclass(frozen=True)
class Workflow:
    """One workflow file: `graph` in API format, `places` (x, y) of its nodes, and the text of its note."""

    graph: dict[str, dict]
    places: dict[str, tuple[int, int]]
    note: str


def shipped(name: str) -> Workflow:
    """Return the graph of `workflows/NAME.json`: text to image with Flux dev, as ComfyUI's own template does it."""
    technique, inputs = TECHNIQUES[name]
    rows = (
        ("1", 0, 0, "UNETLoader", {"unet_name": FLUX, "weight_dtype": "default"}),
        ("2", 0, 310, "DualCLIPLoader", {"clip_name1": CLIP, "clip_name2": T5, "type": "flux"}),
        ("3", 1140, 340, "VAELoader", {"vae_name": VAE}),
        ("4", 800, 340, "EmptySD3LatentImage", {"width": 1024, "height": 1024, "batch_size": 1}),
        ("5", 340, 0, technique, {"model": ["1", 0], **inputs}),
        ("6", 340, 310, "CLIPTextEncode", {"clip": ["2", 0], "text": LANDSCAPE}),
        ("7", 800, 0, "FluxGuidance", {"conditioning": ["6", 0], "guidance": 3.5}),
        ("8", 800, 140, "ConditioningZeroOut", {"conditioning": ["6", 0]}),
        ("9", 1140, 0, "KSampler", _sampler("5", "7", "8", "4")),
        ("10", 1480, 0, "VAEDecode", {"samples": ["9", 0], "vae": ["3", 0]}),
        ("11", 2160, 120, "SaveImage", {"images": ["10", 0], "filename_prefix": "velocity"}),
        ("12", 1480, 120, "VelocitySpeedReport", {"model": ["5", 0], "after": ["10", 0]}),
    )
    return _workflow(rows, technique)


def demo(name: str) -> Workflow:
    """Return the graph of `demo/workflows/NAME_tiny.json`: the same with the tiny model, so that it runs anywhere."""
    technique, inputs = TECHNIQUES[name]
    rows = (
        ("1", 0, 0, "UNETLoader", {"unet_name": TINY, "weight_dtype": "default"}),
        ("2", 0, 310, "TinyFluxTextEncode", {"text": SHAPES}),
        ("3", 340, 310, "EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        ("4", 340, 0, technique, {"model": ["1", 0], **inputs}),
        ("5", 680, 0, "KSampler", _sampler("4", "2", "2", "3")),
        ("6", 1020, 0, "TinyFluxDecode", {"samples": ["5", 0]}),
        ("7", 1700, 120, "SaveImage", {"images": ["6", 0], "filename_prefix": "tiny"}),
        ("8", 1020, 120, "VelocitySpeedReport", {"model": ["4", 0], "after": ["6", 0]}),
    )
    return _workflow(rows, technique)


def _sampler(model: str, positive: str, negative: str, latent: str) -> dict:
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return {**SAMPLING, **{name: [node, 0] for name, node in links.items()}}


def _workflow(rows: tuple, technique: str) -> Workflow:
    graph = {key: {"class_type": kind, "inputs": inputs} for key, _, _, kind, inputs in rows}
    title = {"VelocityForecast": "Velocity Forecast", "VelocityFirstBlockCache": "First Block Cache"}[technique]
    return Workflow(graph, {key: (x, y) for key, x, y, _, _ in rows}, NOTE.format(title=title))
