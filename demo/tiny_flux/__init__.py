"""Tiny Flux: a 4 million parameter FLUX model that paints a coloured shape in a second on a CPU.

A ComfyUI node pack for tests and the demo: text and image codecs around the stock loader and sampler.
The weights are `tiny_flux_shapes.safetensors` beside this file; `train.py` makes them again.
"""


async def comfy_entrypoint():
    """Return the extension that lists the nodes. Called once by ComfyUI at start."""
    from .nodes import TinyFluxExtension

    return TinyFluxExtension()
