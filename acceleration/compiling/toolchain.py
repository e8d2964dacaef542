"""Whether torch.compile can work here, and what to do if not."""

import importlib.util
from typing import Any

import torch

from .vector_units import vector_options

BACKENDS = ("inductor", "cudagraphs", "eager")
ADA = (8, 9)  # the first NVIDIA generation whose compilers know float8_e4m3fn
# What core's `with sdpa_kernel(...)` on NVIDIA cards becomes in a graph. Torch caches no graph with functions that it
# does not know to be safe: these only set flags while the graph is made, and their arguments are part of it.
ATTENTION_CONTEXT = ("torch.nn.attention._sdpa_kernel", "torch.nn.attention._backend_from_string")
CACHEABLE = "unsafe_marked_cacheable_functions"


def problem(backend: str, device: torch.device, weights: set[torch.dtype]) -> str | None:
    """Return why `backend` can't compile for `device` a model with weights of these types, or None."""
    if backend == "eager":
        return None
    if backend == "cudagraphs":
        return None if device.type == "cuda" else "the backend 'cudagraphs' needs an NVIDIA card; choose 'inductor'"
    if device.type == "cpu":
        return _no_cpp_compiler()
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return (
            "there is no Triton, which writes the code for the card. Linux: reinstall torch. "
            "Windows: pip install triton-windows. Or choose the backend 'cudagraphs', which needs none"
        )
    if device.type == "cuda" and torch.float8_e4m3fn in weights and torch.cuda.get_device_capability(device) < ADA:
        return (
            f"{torch.cuda.get_device_name(device)} has no float8_e4m3fn in its compiler (RTX 40 and later have). "
            "Load the model as bf16, fp16 or int8, or choose the backend 'cudagraphs'"
        )
    return None


def compile_options(backend: str, mode: str, dynamic: str, fullgraph: bool, device: torch.device) -> dict[str, Any]:
    """Return the arguments of `torch.compile`. `dynamic` is auto, on or off."""
    options: dict[str, Any] = {
        "backend": backend,
        "fullgraph": fullgraph,
        "dynamic": {"auto": None, "on": True, "off": False}[dynamic],
    }
    if backend == "inductor":
        # torch.compile takes a mode or options, and a mode is a set of options.
        inductor = dict(torch._inductor.list_mode_options(mode, options["dynamic"]))
        if device.type == "cpu":
            inductor.update(vector_options())
        if CACHEABLE in torch._inductor.list_options():
            chosen = getattr(torch._inductor.config, CACHEABLE)
            inductor[CACHEABLE] = {**chosen, **dict.fromkeys(ATTENTION_CONTEXT, torch.__version__)}
        options["options"] = inductor
    return options


def _no_cpp_compiler() -> str | None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError, OSError):
        return (
            "there is no C++ compiler, which the CPU needs. Linux: install g++. Windows: install the Visual Studio "
            "Build Tools. macOS: xcode-select --install"
        )
    return None
