"""Inputs that the two cache nodes share: the preset, and the numbers that count when it is `custom`."""

from typing import Any

from comfy_api.latest import io

from ..acceleration.caching.presets import NAMES
from .advanced import advanced


def preset() -> io.Combo.Input:
    """Return the input that chooses a preset."""
    return io.Combo.Input(
        "preset",
        options=list(NAMES),
        default="balanced",
        tooltip="faithful keeps the picture closest, draft is fastest; custom uses the numbers below.",
    )


def expert(kind: Any, name: str, tooltip: str, **settings: Any) -> io.Input:
    """Return an advanced input that counts with the preset `custom` only."""
    return advanced(kind, name, f"{tooltip} For preset custom.", **settings)
