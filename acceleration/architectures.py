"""Where the blocks of each diffusion transformer are: data, not code. Classes are named by strings, nothing is imported.

Source: the models under comfy/ldm of ComfyUI 0.30.0. A model is found through its base classes, so a subclass needs a
row of its own only where it differs. `tests/numerics/test_architectures.py` runs each row on a tiny model.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """A list of blocks that the model calls one after the other.

    `attribute` is its dotted path below the diffusion model. `streams` names the parameters of the block's forward that
    its output carries on, in the order of the output; a single name means that the output as a whole is the stream, an
    empty name marks an output that is no stream. `probe` is the stream that First Block Cache measures ("": the first).
    """

    attribute: str
    streams: tuple[str, ...]
    probe: str = ""

    @property
    def carried(self) -> tuple[str, ...]:
        """The names of the streams, without the outputs that are none."""
        return tuple(name for name in self.streams if name)


@dataclass(frozen=True)
class Architecture:
    """One diffusion transformer of ComfyUI core.

    `tail_residual` is False where replacing the blocks behind the first one by a stored residual would be wrong, as
    they do more than change their streams; measuring the first block and stopping there works for all.
    """

    name: str
    model_class: str
    stacks: tuple[Stack, ...]
    tail_residual: bool = True


_DOUBLE = Stack("double_blocks", ("img", "txt"))
_SINGLE = Stack("single_blocks", ("x",))

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("Flux", "comfy.ldm.flux.model.Flux", (_DOUBLE, _SINGLE)),
    Architecture("Wan", "comfy.ldm.wan.model.WanModel", (Stack("blocks", ("x",)),)),
    Architecture(
        "Qwen-Image",
        "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
        (Stack("transformer_blocks", ("encoder_hidden_states", "hidden_states"), probe="hidden_states"),),
    ),
)

EXCEPTIONS: dict[str, str] = {}

UNETS: tuple[str, ...] = ("comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel",)
