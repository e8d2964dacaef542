"""Save Quantized Model: the node."""

import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..acceleration.precision.save_quantized import save_quantized
from .advanced import advanced


class VelocitySaveQuantizedModel(io.ComfyNode):
    """Writes a quantised model to disk."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocitySaveQuantizedModel",
            display_name="Save Quantized Model",
            category="Velocity/acceleration",
            description="Saves the model from Load Diffusion Model+ in its small form, LoRAs merged, as a file that "
            "every ComfyUI loads, with or without Velocity.",
            search_aliases=["export model", "save fp8", "convert checkpoint", "fp8", "nvfp4"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A quantised model, from Load Diffusion Model+ and LoRAs behind it. A bypass LoRA or a "
                    "LoRA hook can't be in a file and is refused.",
                ),
                io.String.Input(
                    "filename",
                    default="diffusion_models/velocity_quantized",
                    tooltip="Where below ComfyUI's output folder. What is in diffusion_models there appears in the "
                    "lists of the loaders.",
                ),
                advanced(
                    io.Boolean,
                    "overwrite",
                    "Replace a file of that name. Off: an error says that there is one.",
                    default=False,
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The path of the file.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, filename: str, overwrite: bool = False) -> io.NodeOutput:
        """Save, and return the path."""
        return io.NodeOutput(str(save_quantized(model, folder_paths.get_output_directory(), filename, overwrite)))
