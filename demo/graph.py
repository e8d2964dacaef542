"""The demo's graph in ComfyUI's API format: stock loader and sampler around the tiny model."""

from dev.server import TINY_MODEL

STEPS = 28
SAMPLER_NODE = "sampler"
OFFLOAD_NODE = "offload"
PICTURE_NODE = "picture"


def painting(
    prompt: str, seed: int, nodes: dict[str, dict] | None = None, steps: int = STEPS, precision: str | None = None
) -> dict:
    """Return the graph that paints `prompt` in 64x64 pixels and saves it.

    `nodes` are model nodes put between loader and sampler, in order: `{class_type: inputs other than model}`. With a
    `precision` the model comes from Load Diffusion Model+.
    """
    model = ["loader", 0]
    graph = {"loader": _node("UNETLoader", unet_name=TINY_MODEL, weight_dtype="default")}
    if precision is not None:
        graph["loader"] = _node("VelocityLoadDiffusionModel", model_name=TINY_MODEL, precision=precision)
    for class_type, inputs in (nodes or {}).items():
        graph[class_type] = _node(class_type, model=model, **inputs)
        model = [class_type, 0]
    graph["text"] = _node("TinyFluxTextEncode", text=prompt)
    # ComfyUI's node divides by 8 and the tiny codec multiplies by 4: 128 is 64 pixels.
    graph["empty"] = _node("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph[SAMPLER_NODE] = _node(
        "KSampler",
        model=model,
        positive=["text", 0],
        negative=["text", 0],
        latent_image=["empty", 0],
        seed=seed,
        steps=steps,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )
    graph[PICTURE_NODE] = _node("TinyFluxDecode", samples=[SAMPLER_NODE, 0])
    graph["save"] = _node("SaveImage", images=[PICTURE_NODE, 0], filename_prefix="demo")
    return graph


def with_second_pass(graph: dict, seed: int, side: int) -> dict:
    """Return the painting with a sampler before its own: that one paints as before, the own one then goes on with half
    of the denoising on a latent of `side` (as in EmptyLatentImage, twice the pixels) in each direction."""
    sampler = graph[SAMPLER_NODE]["inputs"]
    first = _node("KSampler", **{**sampler, "seed": seed})
    larger = _node(
        "LatentUpscale", samples=["first", 0], width=side, height=side, upscale_method="nearest-exact", crop="disabled"
    )
    second = _node("KSampler", **{**sampler, "latent_image": ["larger", 0], "denoise": 0.5})
    return {**graph, "first": first, "larger": larger, SAMPLER_NODE: second}


def with_report(reference: dict, accelerated: dict, model: list) -> dict:
    """Return one graph of both paintings and a Speed Report on the model output `model`, saved as a picture."""
    graph = {**{f"reference {name}": _renamed(node) for name, node in reference.items()}, **accelerated}
    graph["report"] = _node(
        "VelocitySpeedReport",
        model=model,
        after=[SAMPLER_NODE, 0],
        reference=["reference " + PICTURE_NODE, 0],
        result=[PICTURE_NODE, 0],
    )
    graph["report picture"] = _node("SaveImage", images=["report", 0], filename_prefix="report")
    graph["report text"] = _node("PreviewAny", source=["report", 1])
    return graph


def offloaded(graph: dict, **widgets: object) -> dict:
    """Return the painting with Offload behind its sampler."""
    widgets = {"endpoint": "default", "route": "remote", **widgets}
    offload = _node("VelocityOffload", samples=[SAMPLER_NODE, 0], **widgets)
    picture = {**graph[PICTURE_NODE], "inputs": {**graph[PICTURE_NODE]["inputs"], "samples": [OFFLOAD_NODE, 0]}}
    return {**graph, OFFLOAD_NODE: offload, PICTURE_NODE: picture}


def _node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def _renamed(node: dict) -> dict:
    links = {k: ["reference " + v[0], v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
    return {**node, "inputs": links}
