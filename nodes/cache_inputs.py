"""Inputs that the two cache nodes share: the preset, and the numbers that count when it is `custom`."""

from typing import Any

from comfy_api.latest import io

from ..acceleration.presets import NAMES


def preset() -> io.Combo.Input:
    """Return the input that chooses a preset."""
    return io.Combo.Input(
        "preset",
        options=list(NAMES),
        default="balanced",
        tooltip="faithful keeps the picture closest, draft is fastest; custom uses the numbers below.",
    )


def expert(kind: Any, name: str, tooltip: str, **settings: Any) -> io.Input:
    """Return an advanced input of `kind` (`io.Float`, ...) that older and hand-written prompts may leave out."""
    return kind.Input(name, tooltip=f"{tooltip} For preset custom.", optional=True, advanced=True, **settings)
