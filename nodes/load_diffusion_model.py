"""Load Diffusion Model+: the node."""

import folder_paths
from comfy_api.latest import io

from ..acceleration.precision.load_quantized import COMPUTE_DTYPES, DEVICES, LoadConfig, load_diffusion_model
from ..acceleration.precision.precisions import NAMES
from .advanced import advanced

FOLDERS = ("diffusion_models", "checkpoints")
DEFAULTS = LoadConfig()
ALIASES = ["fp8", "quantize", "unet loader", "load unet", "nvfp4", "mxfp8", "int8", "wavespeed", "less vram"]


class VelocityLoadDiffusionModel(io.ComfyNode):
    """Loads a diffusion model and quantises it on the way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityLoadDiffusionModel",
            display_name="Load Diffusion Model+",
            category="Velocity/acceleration",
            description="Loads a diffusion model and, if you like, makes its weights smaller and faster while loading: "
            "any 16-bit file becomes fp8, int8, mxfp8 or nvfp4, without a second copy in memory.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=_model_names(),
                    tooltip="A file from models/diffusion_models or models/checkpoints; of a checkpoint, the diffusion "
                    "model alone is loaded.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(NAMES),
                    default=DEFAULTS.precision,
                    tooltip="fp8 scaled: half the memory on any GPU, closest to the original. fp8 fast: also faster, "
                    "RTX 40 series or newer. mxfp8, nvfp4: RTX 50 series or newer. int8: half the memory, many GPUs.",
                ),
                advanced(
                    io.String,
                    "keep_high_precision",
                    "Layers that are not quantised. auto: all outside of the blocks; none: quantise everything; or "
                    "patterns such as *.img_mlp.*, separated by commas, also behind auto.",
                    default=DEFAULTS.keep_high_precision,
                ),
                advanced(
                    io.Combo,
                    "compute_dtype",
                    "In what the model computes; auto leaves it to ComfyUI.",
                    options=list(COMPUTE_DTYPES),
                    default=DEFAULTS.compute_dtype,
                ),
                advanced(
                    io.Combo,
                    "device",
                    "default: the GPU that ComfyUI uses; cpu: slow, but also for formats that the GPU lacks.",
                    options=list(DEVICES),
                    default=DEFAULTS.device,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model; LoRAs and every other node work on it as usual.")],
        )

    @classmethod
    def execute(cls, model_name: str, precision: str, **settings: str) -> io.NodeOutput:
        """Return the loaded model."""
        return io.NodeOutput(load_diffusion_model(_path(model_name), LoadConfig(precision, **settings)))


def _model_names() -> list[str]:
    """The files of both folders, each name once."""
    return list(dict.fromkeys(name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)))


def _path(model_name: str) -> str:
    """Return the file of that name. ValueError for one that the folders' own lists do not name."""
    for folder in FOLDERS:
        if model_name in folder_paths.get_filename_list(folder):
            return folder_paths.get_full_path_or_raise(folder, model_name)
    raise ValueError(
        f"there is no model {model_name!r} in models/diffusion_models or models/checkpoints; choose one from the list, "
        "and press R to read the folders again"
    )
