"""Warm: an end for a graph that only loads a model."""

import comfy.model_management
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io


class VelocityWarm(io.ComfyNode):
    """Puts a model where it will be sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityWarm",
            display_name="Warm",
            category="Velocity/worker",
            is_output_node=True,
            inputs=[io.Model.Input("model", tooltip="The model to load.")],
            outputs=[],
        )

    @classmethod
    def execute(cls, model: ModelPatcher) -> io.NodeOutput:
        """Load the model onto its device."""
        comfy.model_management.load_models_gpu([model])
        return io.NodeOutput()
