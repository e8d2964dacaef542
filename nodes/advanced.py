"""Inputs that ComfyUI folds away."""

from typing import Any

from comfy_api.latest import io


def advanced(kind: Any, name: str, tooltip: str, **settings: Any) -> io.Input:
    """Return an advanced input of `kind` (`io.Float`, ...) that older and hand-written prompts may leave out."""
    return kind.Input(name, tooltip=tooltip, optional=True, advanced=True, **settings)
