"""Run by test_compile.py: how many graphs each architecture takes, and which changes still cost one.

The numbers are exact, so that an improvement shows as well as a regression.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from velocity_nodes.acceleration.blocks.block_stack import map_tensors, visit_blocks
from velocity_nodes.acceleration.compiling.compiled_blocks import CompiledBlocks

from .compiling import CLOSE, error, forget, graphs
from .tiny_models import BUILDERS, UNET_BUILDERS, NotInThisComfyUI, TinyModel


@dataclass(frozen=True)
class Graphs:
    """Graphs that the first call takes, and then a wider latent, a longer prompt, two samples, three samples.

    None: this model has no such change.
    """

    first: int
    wide: int | None = 0
    long: int | None = 0
    two: int | None = 0
    three: int | None = 0


MODELS = {
    "Flux": Graphs(2),
    "Flux: ControlNet": Graphs(2),
    "Flux: 2": Graphs(2),
    "Chroma": Graphs(2),
    "Wan": Graphs(2),
    "Wan: image to video": Graphs(2),
    "Wan: VACE": Graphs(2, wide=None),
    "HunyuanVideo": Graphs(2),
    "HunyuanVideo: 1.5": Graphs(1),
    "LTX-Video": Graphs(1),
    "LTX-2": Graphs(1, wide=None, two=1),
    "Qwen-Image": Graphs(1),
    "Stable Diffusion 3": Graphs(3),
    "Lumina 2: Z-Image": Graphs(1),
    "HiDream-I1": Graphs(2),
    "Cosmos-Predict2": Graphs(1),
    "AuraFlow": Graphs(2),
    "Stable Diffusion 1.5": Graphs(2),
    "SDXL": Graphs(2),
}


def run(tiny: TinyModel, arguments: dict) -> torch.Tensor:
    """Return the output, all parts of it in a row."""
    x, t = arguments["x"], arguments["t"]
    others = {name: value for name, value in arguments.items() if name not in ("x", "t")}
    output = tiny.diffusion_model(x, t, transformer_options={"cond_or_uncond": [0]}, **others)
    return torch.cat([part.flatten() for part in (output if isinstance(output, tuple | list) else [output])])


def twice(dim: int, name: str, tiny: TinyModel) -> dict:
    """Return inputs with twice the size in one dimension of one of them."""
    arguments = tiny.arguments(1)
    return {**arguments, name: map_tensors(lambda tensor: torch.cat([tensor, tensor], dim), arguments[name])}


CALLS: dict[str, Callable[[TinyModel], dict]] = {
    "first": lambda tiny: tiny.arguments(1),
    "wide": lambda tiny: twice(-1, "x", tiny),
    "long": lambda tiny: twice(1, "context", tiny),
    "two": lambda tiny: tiny.arguments(1, 2),
    "three": lambda tiny: tiny.arguments(1, 2, 3),
}


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    forget()
    yield


@pytest.mark.parametrize("name", MODELS)
def test_graphs(name: str) -> None:
    try:
        tiny = {**BUILDERS, **UNET_BUILDERS}[name]()
    except NotInThisComfyUI as reason:
        pytest.skip(str(reason))
    blocks, taken = CompiledBlocks(backend="eager", dynamic=None, fullgraph=False), {}
    for change, arguments in CALLS.items():
        try:
            expected = run(tiny, arguments(tiny))
        except RuntimeError:
            taken[change] = None
            continue
        before = graphs()
        with visit_blocks(tiny.diffusion_model, blocks.visit):
            assert error(run(tiny, arguments(tiny)), expected) < CLOSE, change
        taken[change] = graphs() - before
    assert not blocks.uncompiled
    assert Graphs(**taken) == MODELS[name]
