"""The Tiny Flux nodes. The tiny model paints 64x64 pixels, which ComfyUI's Empty Latent Image calls 128x128."""

import torch
from comfy.latent_formats import Flux
from comfy_api.latest import ComfyExtension, io

from .codecs import decode_latent, encode_image, encode_prompt

CATEGORY = "Tiny Flux"


class TinyFluxTextEncode(io.ComfyNode):
    """A sentence of known words becomes conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        return io.Schema(
            node_id="TinyFluxTextEncode",
            display_name="Tiny Flux Text Encode",
            category=CATEGORY,
            inputs=[
                io.String.Input(
                    "text",
                    default="a large red circle at the left on a blue background",
                    tooltip="A sentence of this form. An unknown word is an error that lists the known ones.",
                )
            ],
            outputs=[io.Conditioning.Output(tooltip="Connect to a sampler's positive (and, at CFG 1, negative).")],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        """Return one conditioning entry with its pooled vector."""
        tokens, pooled = encode_prompt(text)
        return io.NodeOutput([[tokens, {"pooled_output": pooled}]])


class TinyFluxDecode(io.ComfyNode):
    """A sampled latent becomes a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        return io.Schema(
            node_id="TinyFluxDecode",
            display_name="Tiny Flux Decode",
            category=CATEGORY,
            inputs=[io.Latent.Input("samples", tooltip="What the sampler returned.")],
            outputs=[io.Image.Output(tooltip="Four pixels per latent cell in each direction.")],
        )

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:
        """Return the image (B, H, W, 3) in 0..1."""
        # ComfyUI hands out latents in the VAE's own scale; the tiny codecs live in the model's scale.
        image = decode_latent(Flux().process_in(samples["samples"]))
        return io.NodeOutput(((image + 1) / 2).clamp(0, 1).movedim(1, -1))


class TinyFluxEncode(io.ComfyNode):
    """A picture becomes a latent, for image to image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        return io.Schema(
            node_id="TinyFluxEncode",
            display_name="Tiny Flux Encode",
            category=CATEGORY,
            inputs=[io.Image.Input("image", tooltip="64x64 pixels; other multiples of 8 work less well.")],
            outputs=[io.Latent.Output(tooltip="Connect to a sampler and lower its denoise.")],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        """Return the latent of an image (B, H, W, 3) in 0..1."""
        latent = encode_image(image[..., :3].movedim(-1, 1) * 2 - 1)
        return io.NodeOutput({"samples": Flux().process_out(latent)})


class TinyFluxExtension(ComfyExtension):
    """Lists the nodes for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class."""
        return [TinyFluxTextEncode, TinyFluxDecode, TinyFluxEncode]
