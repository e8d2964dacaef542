"""Offload: the node, and the two that it expands to."""

import time
from typing import Any

from comfy_api.latest import io

from . import offload_inputs

INTERNAL = "Velocity/remote/internal"


class VelocityOffload(io.ComfyNode):
    """Runs the sampler before it on an endpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityOffload",
            display_name="Offload",
            category="Velocity/remote",
            description="Runs the sampler before it on a faster machine, with the same result: embeddings and latents "
            "leave, and the picture that a ControlNet is given. If the endpoint fails, the sampler runs here with the "
            "same seed. Place it directly behind any sampler.",
            search_aliases=["remote", "cloud gpu", "offload", "distributed", "velocity serve"],
            enable_expand=True,
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            inputs=[
                io.Latent.Input(
                    "samples",
                    raw_link=True,
                    lazy=True,
                    tooltip="The latent output of a sampler: KSampler, SamplerCustomAdvanced or another. That sampler "
                    "and its models then run on the endpoint.",
                ),
                offload_inputs.endpoint(),
                offload_inputs.route(),
                *offload_inputs.advanced_inputs(),
            ],
            outputs=[io.Latent.Output(is_output_list=True, tooltip="What the sampler makes.")],
        )

    @classmethod
    async def execute(cls, samples: list, **widgets: Any) -> io.NodeOutput:
        """Return the nodes that run the sampler, there or here."""
        from comfy_execution.graph_utils import GraphBuilder

        import nodes

        from ..remote.client.plan import plan

        builder = GraphBuilder()  # before anything is awaited, as its prefix is that of the node that runs now
        dynprompt, chosen = cls.hidden.dynprompt, offload_inputs.options(widgets)
        shown_on = dynprompt.get_display_node_id(samples[0])  # not a node that another one has expanded to
        classes = nodes.NODE_CLASS_MAPPINGS
        ids = dynprompt.all_node_ids()
        link = await plan(samples, dynprompt.get_node, classes, chosen, builder, shown_on, ids)
        return io.NodeOutput(link, expand=builder.finalize())


class VelocityOffloadDispatch(io.ComfyNode):
    """Sends the job, and is shown as the sampler meanwhile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityOffloadDispatch",
            display_name="Offload (sends the job)",
            category=INTERNAL,
            description="Part of Offload, which puts it into the graph while it runs. Not for use by hand.",
            is_dev_only=True,
            enable_expand=True,
            is_input_list=True,
            accept_all_inputs=True,
            inputs=[
                io.String.Input("request", tooltip="What to send, sealed by Offload."),
                io.String.Input("shown_on", tooltip="The node that shows the progress."),
                io.Latent.Input("samples", raw_link=True, lazy=True, tooltip="The sampler to run if that fails."),
            ],
            outputs=[io.AnyType.Output(tooltip="The list of what the sampler makes.")],
        )

    @classmethod
    async def execute(cls, request: list, shown_on: list, samples: list, **cuts: list) -> io.NodeOutput:
        """Return the sampler's items, or the node that has them made here."""
        from comfy_execution.graph_utils import GraphBuilder
        from comfy_execution.utils import get_executing_context

        from ..remote.client.cut import Cut
        from ..remote.client.dispatch import Dispatcher, RunHere
        from ..remote.client.display import SamplerDisplay
        from ..remote.client.options import Options
        from ..remote.client.plan import private_folder
        from ..remote.client.sealed import seal, unseal
        from ..remote.client.settings import find_endpoint

        builder, asked = GraphBuilder(), unseal(request[0])
        options, folder = Options(**asked["options"]), private_folder()
        cut = Cut(**asked["cut"])
        before = {name: cut.names[name] for name in cut.samplers[:-1]}
        display = SamplerDisplay(get_executing_context().node_id, shown_on[0], before)
        endpoint = find_endpoint(options.endpoint, folder)
        dispatcher = Dispatcher(cut, options, endpoint, folder, display)
        result = await dispatcher.run([cuts[f"cut{number}"] for number in range(len(cuts))])
        if not isinstance(result, RunHere):
            return io.NodeOutput(result)
        measure = ""
        if result.work:
            measure = seal({"work": vars(result.work), "start": time.monotonic()})
        here = builder.node("VelocityOffloadLocal", samples=samples[0], measure=measure)
        return io.NodeOutput([here.id, 0], expand=builder.finalize())


class VelocityOffloadLocal(io.ComfyNode):
    """Passes the sampler's own items on as one list."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityOffloadLocal",
            display_name="Offload (runs here)",
            category=INTERNAL,
            description="Part of Offload, which puts it into the graph while it runs. Not for use by hand.",
            is_dev_only=True,
            is_input_list=True,
            inputs=[
                io.Latent.Input("samples", tooltip="What the sampler makes."),
                io.String.Input("measure", default="", optional=True, tooltip="What to measure, sealed by Offload."),
            ],
            outputs=[io.AnyType.Output(tooltip="The list of what the sampler makes.")],
        )

    @classmethod
    def execute(cls, samples: list, measure: list | None = None) -> io.NodeOutput:
        """Return the items as one value, and keep how long they took."""
        if measure and measure[0]:
            from ..remote.client.history import History, Work
            from ..remote.client.plan import private_folder
            from ..remote.client.route import LOCAL
            from ..remote.client.sealed import unseal

            asked = unseal(measure[0])
            seconds = time.monotonic() - asked["start"]
            if seconds > 0.02:  # less than that: it came from ComfyUI's cache
                history = History(private_folder())
                history.record_seconds(LOCAL, Work(**asked["work"]), seconds)
                history.save()
        return io.NodeOutput(samples)
