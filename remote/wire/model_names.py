"""Which model files a graph names. Names have forward slashes here, as the client may run on another system."""

from typing import Any

MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def model_names(graph: dict[str, dict[str, Any]]) -> list[str]:
    """Return the names of the model files in the widgets of a graph in API format, sorted."""
    values = (value for node in graph.values() for value in node["inputs"].values())
    names = (value.replace("\\", "/") for value in values if isinstance(value, str))
    return sorted({name for name in names if name.casefold().endswith(MODEL_SUFFIXES)})
