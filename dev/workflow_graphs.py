"""The graphs behind `workflows/` and `demo/workflows/`, in API format; `dev/author_workflows.py` makes the files.

Inputs that a node does not name here keep their defaults. Places are pixels on the canvas.
"""

from dataclasses import dataclass

from .server import TINY_LORA, TINY_MODEL

FLUX, CLIP = "flux1-dev.safetensors", "clip_l.safetensors"
T5, VAE = "t5xxl_fp16.safetensors", "ae.safetensors"
LORA = "realism_lora_comfy_converted.safetensors"
_HUB = "https://huggingface.co"
MODELS = {  # file -> folder below models, and where a user gets it: the frontend offers to download what is missing
    FLUX: ("diffusion_models", f"{_HUB}/Comfy-Org/flux1-dev/resolve/main/{FLUX}"),
    CLIP: ("text_encoders", f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/{CLIP}"),
    T5: ("text_encoders", f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main/{T5}"),
    LORA: ("loras", f"{_HUB}/XLabs-AI/flux-lora-collection/resolve/main/{LORA}"),
    VAE: ("vae", f"{_HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/{VAE}"),
}
SAMPLING = {"seed": 2, "steps": 28, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
LANDSCAPE = "a lighthouse on a rocky coast at dawn, warm light in the windows, waves, photograph, 35 mm"
SHAPES = "a large red circle at the left on a blue background"
FORECAST = ("VelocityForecast", {"preset": "balanced"})
TOGETHER = (
    ("LoraLoaderModelOnly", {"strength_model": 1.0}),
    FORECAST,
    ("VelocityCompileModel", {"mode": "default"}),
)
CHAINS = {  # file name -> what stands in the title of its note, and the nodes between loader and sampler
    "velocity_forecast": ("Velocity Forecast", (FORECAST,)),
    "first_block_cache": ("First Block Cache", (("VelocityFirstBlockCache", {"preset": "balanced"}),)),
    "all_together": ("All together", TOGETHER),
    "offload": ("Offload", ()),
    "remote_sampler": ("Remote Sampler", ()),
}
COLUMN = 340  # from one node to the next
REMOTE = ("offload", "remote_sampler")  # these leave Speed Report out: its model link would load the model here
NOTE = """**{title}** sits between the model loader and the sampler. Everything else is a stock graph: bypass the node \
(Ctrl+B) and you get the stock picture.

Run it: **Speed Report** shows which steps were skipped and the time that saved.

To measure how near the picture is to the stock one: bypass the node, run, save the picture, load it with Load Image \
into **reference**, connect this picture to **result**, switch the node on again and run with the same seed."""
TOGETHER_NOTE = """**All together**: the model is loaded as fp8 (half the memory), takes a LoRA, skips the steps that \
tell nothing new, and runs compiled.

The first run compiles, which takes a while. Another size, batch, prompt, seed, LoRA or strength needs no new one, and \
the next start of ComfyUI finds the result on disk.

Each node can be bypassed (Ctrl+B) by itself, and the order of LoRA, Velocity Forecast and Compile Model+ does not \
matter. With a card of the RTX 40 series or newer try the precision **fp8 fast**."""

REMOTE_NOTES = {
    "offload": """**Offload** behind the sampler runs that sampler and its models on a faster machine. Everything else \
is a stock graph, and the text encoders and the VAE stay here: bypass the node (Ctrl+B) and all of it runs here.

**Connect**: run `velocity serve` on the machine with the GPU, set `VELOCITY_ENDPOINT` and `VELOCITY_API_KEY` as it \
prints them, and start ComfyUI. Without an endpoint this graph runs here.

The model file must be on the other machine. Here an empty file of its name will do, \
as ComfyUI only looks for the name.""",
    "remote_sampler": """**Remote Sampler** is KSampler on a faster machine. The text encoders and the VAE stay here; \
only embeddings and latents leave.

**Connect**: run `velocity serve` on the machine with the GPU, set `VELOCITY_ENDPOINT` and `VELOCITY_API_KEY` as it \
prints them, and start ComfyUI. Without an endpoint this graph runs here.

For any other sampler put **Offload** behind it.""",
}


@dataclass(frozen=True)
class Workflow:
    """One workflow file: `graph` in API format, `places` (x, y) of its nodes, and the text of its note."""

    graph: dict[str, dict]
    places: dict[str, tuple[int, int]]
    note: str


def shipped(name: str) -> Workflow:
    """Return the graph of `workflows/NAME.json`: text to image with Flux dev, as ComfyUI's own template does it."""
    chain, model, right = _chain(name, FLUX, LORA)
    behind = right + (COLUMN if name == "offload" else 0)
    rows = (
        *chain,
        ("2", 0, 310, "DualCLIPLoader", {"clip_name1": CLIP, "clip_name2": T5, "type": "flux"}),
        ("3", right + 800, 480 if name in REMOTE else 340, "VAELoader", {"vae_name": VAE}),
        ("4", right + 460, 340, "EmptySD3LatentImage", {"width": 1024, "height": 1024, "batch_size": 1}),
        ("6", 340, 310, "CLIPTextEncode", {"clip": ["2", 0], "text": LANDSCAPE}),
        ("7", right + 460, 0, "FluxGuidance", {"conditioning": ["6", 0], "guidance": 3.5}),
        ("8", right + 460, 140, "ConditioningZeroOut", {"conditioning": ["6", 0]}),
        *_sampling(name, "9", right + 800, _sampler(model, "7", "8", "4")),
        ("10", behind + 1140, 0, "VAEDecode", {"samples": [_latent(name, "9"), 0], "vae": ["3", 0]}),
        *_ending(name, model, "10", behind + 1140, "velocity"),
    )
    return _workflow(rows, name)


def demo(name: str) -> Workflow:
    """Return the graph of `demo/workflows/NAME_tiny.json`: the same with the tiny model, so that it runs anywhere."""
    chain, model, right = _chain(name, TINY_MODEL, TINY_LORA)
    behind = right + (COLUMN if name == "offload" else 0)
    rows = (
        *chain,
        ("2", 0, 310, "TinyFluxTextEncode", {"text": SHAPES}),
        ("3", 340, 310, "EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        *_sampling(name, "5", right + 340, _sampler(model, "2", "2", "3")),
        ("6", behind + 680, 0, "TinyFluxDecode", {"samples": [_latent(name, "5"), 0]}),
        *_ending(name, model, "6", behind + 680, "tiny"),
    )
    return _workflow(rows, name)


def _chain(name: str, model: str, lora: str) -> tuple[list[tuple], str, int]:
    """Return the rows of the loader and the nodes behind it, the last node's key, and how far right it stands."""
    loader = ("UNETLoader", {"unet_name": model, "weight_dtype": "default"})
    if name == "all_together":
        loader = ("VelocityLoadDiffusionModel", {"model_name": model, "precision": "fp8 scaled"})
    rows, key, x = [("1", 0, 0, *loader)], "1", 0
    for number, (kind, inputs) in enumerate(CHAINS[name][1]):
        names = {"lora_name": lora} if kind == "LoraLoaderModelOnly" else {}
        before, key, x = key, str(20 + number), x + COLUMN
        rows.append((key, x, 0, kind, {"model": [before, 0], **names, **inputs}))
    return rows, key, max(x, COLUMN)


def _sampling(name: str, key: str, x: int, inputs: dict) -> list[tuple]:
    """Return the rows of the sampler, and of Offload behind it."""
    remote = {"endpoint": "default", "route": "auto"}
    if name == "remote_sampler":
        return [(key, x, 0, "VelocityRemoteSampler", {**inputs, **remote})]
    rows = [(key, x, 0, "KSampler", inputs)]
    if name == "offload":
        rows.append((_latent(name, key), x + COLUMN, 0, "VelocityOffload", {"samples": [key, 0], **remote}))
    return rows


def _latent(name: str, sampler: str) -> str:
    """Return the key of the node whose latent is decoded."""
    return "30" if name == "offload" else sampler


def _ending(name: str, model: str, picture: str, x: int, prefix: str) -> list[tuple]:
    save = {"images": [picture, 0], "filename_prefix": prefix}
    if name in REMOTE:
        return [(str(int(picture) + 1), x, 120, "SaveImage", save)]
    report = {"model": [model, 0], "after": [picture, 0]}
    return [
        (str(int(picture) + 1), x + 680, 120, "SaveImage", save),
        (str(int(picture) + 2), x, 120, "VelocitySpeedReport", report),
    ]


def _sampler(model: str, positive: str, negative: str, latent: str) -> dict:
    links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return {**SAMPLING, **{name: [node, 0] for name, node in links.items()}}


def _workflow(rows: tuple, name: str) -> Workflow:
    graph = {key: {"class_type": kind, "inputs": inputs} for key, _, _, kind, inputs in rows}
    note = {"all_together": TOGETHER_NOTE, **REMOTE_NOTES}.get(name) or NOTE.format(title=CHAINS[name][0])
    return Workflow(graph, {key: (x, y) for key, x, y, _, _ in rows}, note)
