"""What the checks of Compile Model+ share. Backend eager is all of torch.compile but the code generation: seconds."""

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.model_patcher import ModelPatcher
from torch._dynamo.utils import counters
from velocity_nodes.acceleration.compiling.compile import CompileConfig, apply_compile

from .sampling import run_sampler

assert optimized_attention is attention_pytorch, "run these files through test_compile.py"

CLOSE = 1e-3  # relative L2


def compiled(model: ModelPatcher, **settings: object) -> ModelPatcher:
    """Return the model behind the node, with backend eager unless told otherwise."""
    return apply_compile(model, CompileConfig(**{"backend": "eager", **settings}))


def graphs() -> int:
    """Return how many graphs this process has compiled since the last reset."""
    return counters["stats"]["unique_graphs"]


def forget() -> None:
    """Drop everything that torch.compile knows."""
    torch._dynamo.reset()
    counters.clear()


def error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative L2 error."""
    return ((result - expected).norm() / expected.norm()).item()


def compare(model: ModelPatcher, plain: ModelPatcher, **settings: object) -> tuple[float, int]:
    """Sample with both; return the relative error against `plain`, and how many graphs that compiled."""
    settings = {"steps": 2, **settings}
    expected, before = run_sampler(plain, **settings), graphs()
    return error(run_sampler(model, **settings), expected), graphs() - before
