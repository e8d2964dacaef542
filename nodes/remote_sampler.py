"""Remote Sampler: the node."""

from typing import Any

from comfy_api.latest import io

from . import offload_inputs

KSAMPLER_INPUTS = (
    ("model", "positive", "negative", "latent_image"),
    ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
)


class VelocityRemoteSampler(io.ComfyNode):
    """KSampler that runs on an endpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        import comfy.samplers

        raw = {"raw_link": True, "lazy": True}
        return io.Schema(
            node_id="VelocityRemoteSampler",
            display_name="Remote Sampler",
            category="Velocity/remote",
            description="KSampler on a faster machine, with the same result: embeddings and latents leave, and the "
            "picture that a ControlNet is given. If the endpoint fails, it samples here with the same seed.",
            search_aliases=["remote ksampler", "cloud gpu", "offload"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Model.Input("model", tooltip="The model, loaded on the endpoint and here only if needed.", **raw),
                io.Conditioning.Input("positive", tooltip="What the picture is to show.", **raw),
                io.Conditioning.Input("negative", tooltip="What it is not to show.", **raw),
                io.Latent.Input("latent_image", tooltip="The latent to denoise.", **raw),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The seed of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="How many steps to denoise in."),
                io.Float.Input(
                    "cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="How strong the guidance is."
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The way to take a step."
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, tooltip="How much noise goes in each step."
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="How much of the latent is made anew."
                ),
                offload_inputs.endpoint(),
                offload_inputs.route(),
                *offload_inputs.advanced_inputs(),
            ],
            outputs=[io.Latent.Output(is_output_list=True, tooltip="The denoised latent.")],
        )

    @classmethod
    async def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Return a KSampler and the nodes that run it, there or here."""
        from comfy_execution.graph_utils import GraphBuilder

        import nodes

        from ..remote.client.plan import plan

        builder = GraphBuilder()
        sampler_inputs = {name: inputs.pop(name) for names in KSAMPLER_INPUTS for name in names}
        sampler = builder.node("KSampler", **sampler_inputs)
        own = {sampler.id: {"class_type": "KSampler", "inputs": sampler_inputs}}
        dynprompt = cls.hidden.dynprompt

        def get_node(node_id: str) -> dict:
            return own.get(node_id) or dynprompt.get_node(node_id)

        chosen = offload_inputs.options(inputs)
        shown_on = dynprompt.get_display_node_id(cls.hidden.unique_id)
        classes, ids = nodes.NODE_CLASS_MAPPINGS, dynprompt.all_node_ids()
        link = await plan(sampler.out(0), get_node, classes, chosen, builder, shown_on, ids)
        return io.NodeOutput(link, expand=builder.finalize())
