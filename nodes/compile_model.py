"""Compile Model+: the node."""

from comfy_api.latest import io

from ..acceleration.compiling.compile import MODES, SCOPES, CompileConfig, apply_compile
from ..acceleration.compiling.toolchain import BACKENDS
from .advanced import advanced

DEFAULTS = CompileConfig()


class VelocityCompileModel(io.ComfyNode):
    """Compiles the blocks of a model, once for every size, batch, prompt and LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityCompileModel",
            display_name="Compile Model+",
            category="Velocity/acceleration",
            description="Compiles the model with torch.compile, one graph for each kind of block. The first run takes "
            "a while; another size, batch, prompt, LoRA or seed needs no new one, and the next start finds it on disk.",
            search_aliases=["torch compile", "inductor", "speed up model"],
            inputs=[
                io.Model.Input("model", tooltip="The model to compile, before or behind the other Velocity nodes."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=DEFAULTS.mode,
                    tooltip="default compiles fastest. max-autotune-no-cudagraphs tries many kernels: minutes once, a "
                    "few percent faster after. reduce-overhead and max-autotune add CUDA graphs, which need the scope "
                    "'whole model'; block by block they run as default and max-autotune-no-cudagraphs.",
                ),
                advanced(
                    io.Combo,
                    "backend",
                    "inductor writes new kernels. cudagraphs only records the old ones: less gain, same picture. "
                    "eager compiles nothing, to look for errors.",
                    options=list(BACKENDS),
                    default=DEFAULTS.backend,
                ),
                advanced(
                    io.Combo,
                    "dynamic",
                    "auto keeps open what differs between prompts: batch and token counts. on keeps every size open, "
                    "off compiles anew for each size.",
                    options=["auto", "on", "off"],
                    default=DEFAULTS.dynamic,
                ),
                advanced(
                    io.Boolean,
                    "fullgraph",
                    "Stop with an error where a block does not compile as one graph.",
                    default=DEFAULTS.fullgraph,
                ),
                advanced(
                    io.Combo,
                    "scope",
                    "blocks compiles each kind of block once. whole model, as TorchCompileModel does, takes several "
                    "times longer and again for each new size.",
                    options=list(SCOPES),
                    default=DEFAULTS.scope,
                ),
                advanced(
                    io.Boolean,
                    "keep_fastest",
                    "Measure the first steps compiled and not, and go on with the faster.",
                    default=DEFAULTS.keep_fastest,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The compiled model; connect it to the sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, mode: str, **others: str | bool) -> io.NodeOutput:
        """Return a clone of the model that runs compiled."""
        return io.NodeOutput(apply_compile(model, CompileConfig(mode, **others)))
