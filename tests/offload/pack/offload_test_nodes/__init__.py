"""Nodes that only the client of the offload tests has: lists, objects in conditioning, nodes that expand to others."""

import logging
import zlib

import torch
from comfy_api.latest import ComfyExtension, io

CATEGORY = "tests"
SAMPLER = [
    io.Model.Input("model"),
    io.Conditioning.Input("conditioning"),
    io.Latent.Input("latent"),
    io.Int.Input("seed", max=1 << 32),
]


class OffloadTestSeeds(io.ComfyNode):
    """Makes a list of seeds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        inputs = [io.Int.Input("first"), io.Int.Input("count")]
        outputs = [io.Int.Output(is_output_list=True)]
        return io.Schema(node_id="OffloadTestSeeds", category=CATEGORY, inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, first: int, count: int) -> io.NodeOutput:
        """Return `count` seeds."""
        return io.NodeOutput(list(range(first, first + count)))


class OffloadTestPass(io.ComfyNode):
    """Passes a latent on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        inputs, outputs = [io.Latent.Input("latent")], [io.Latent.Output()]
        return io.Schema(node_id="OffloadTestPass", category=CATEGORY, inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, latent: dict) -> io.NodeOutput:
        """Return the latent."""
        return io.NodeOutput(latent)


class OffloadTestTiny(io.ComfyNode):
    """Makes conditioning of any text encoder one of the tiny model's size, and says so in the log."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        inputs, outputs = [io.Conditioning.Input("conditioning")], [io.Conditioning.Output()]
        return io.Schema(node_id="OffloadTestTiny", category=CATEGORY, inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, conditioning: list) -> io.NodeOutput:
        """Return the first twelve tokens, 64 numbers of each."""
        logging.info("velocity test: tiny conditioning")
        return io.NodeOutput(
            [
                [tokens[:, :12, :64], {"pooled_output": options["pooled_output"][:, :64]}]
                for tokens, options in conditioning
            ]
        )


class OffloadTestText(io.ComfyNode):
    """Makes conditioning of any width, for models whose text encoders are large."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        inputs, outputs = [io.String.Input("text"), io.Int.Input("width", max=1 << 16)], [io.Conditioning.Output()]
        return io.Schema(node_id="OffloadTestText", category=CATEGORY, inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, text: str, width: int) -> io.NodeOutput:
        """Return eight tokens of numbers that depend on the text."""
        draw = torch.Generator().manual_seed(zlib.crc32(text.encode()))
        tokens, pooled = torch.randn(1, 8, width, generator=draw), torch.randn(1, 64, generator=draw)
        return io.NodeOutput([[tokens, {"pooled_output": pooled}]])


class OffloadTestLive(io.ComfyNode):
    """Hides an object in conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        inputs, outputs = [io.Conditioning.Input("conditioning")], [io.Conditioning.Output()]
        return io.Schema(node_id="OffloadTestLive", category=CATEGORY, inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, conditioning: list) -> io.NodeOutput:
        """Return the conditioning with the object, which no sampler looks at."""
        return io.NodeOutput([[tensor, {**options, "secret": object()}] for tensor, options in conditioning])


class OffloadTestSampler(io.ComfyNode):
    """Expands to a KSampler, as the samplers of some packs do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        return io.Schema(
            node_id="OffloadTestSampler",
            category=CATEGORY,
            enable_expand=True,
            inputs=SAMPLER,
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model: object, conditioning: list, latent: dict, seed: int) -> io.NodeOutput:
        """Return the KSampler's output."""
        from comfy_execution.graph_utils import GraphBuilder

        builder = GraphBuilder()
        return io.NodeOutput(_ksampler(builder, model, conditioning, latent, seed), expand=builder.finalize())


class OffloadTestNested(io.ComfyNode):
    """Expands to a KSampler with Offload behind it; the model is a link, the rest are values."""

    RAW = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's schema."""
        return io.Schema(
            node_id=cls.__name__,
            category=CATEGORY,
            enable_expand=True,
            inputs=[
                io.Model.Input("model", raw_link=cls.RAW),
                *SAMPLER[1:],
                io.Combo.Input("route", options=["auto", "remote", "local"]),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model: object, conditioning: list, latent: dict, seed: int, route: str) -> io.NodeOutput:
        """Return Offload's output."""
        from comfy_execution.graph_utils import GraphBuilder

        builder = GraphBuilder()
        sampler = _ksampler(builder, model, conditioning, latent, seed)
        offload = builder.node("VelocityOffload", samples=sampler, endpoint="default", route=route, on_failure="raise")
        return io.NodeOutput(offload.out(0), expand=builder.finalize())


class OffloadTestNestedModel(OffloadTestNested):
    """The same with the model itself in the KSampler."""

    RAW = False


def _ksampler(builder: object, model: object, conditioning: list, latent: dict, seed: int) -> list:
    links = {"model": model, "positive": conditioning, "negative": conditioning, "latent_image": latent}
    widgets = {"steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return builder.node("KSampler", seed=seed, **links, **widgets).out(0)


class OffloadTestExtension(ComfyExtension):
    """Lists the nodes for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return every node class."""
        return [
            OffloadTestSeeds,
            OffloadTestPass,
            OffloadTestTiny,
            OffloadTestText,
            OffloadTestLive,
            OffloadTestSampler,
            OffloadTestNested,
            OffloadTestNestedModel,
        ]


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension that lists the nodes. Called once by ComfyUI at start."""
    return OffloadTestExtension()
