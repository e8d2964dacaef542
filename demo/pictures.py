"""Reads the demo's small pictures and enlarges them for people."""

from pathlib import Path

import numpy
import torch
from PIL import Image

SIDE = 512  # pixels of one enlarged picture
GAP = 8


def load(path: Path) -> torch.Tensor:
    """Return the picture (H, W, 3) in 0..1."""
    with Image.open(path) as image:
        return torch.from_numpy(numpy.asarray(image.convert("RGB"), dtype=numpy.float32) / 255)


def enlarged_row(images: list[torch.Tensor]) -> Image.Image:
    """Return the pictures (H, W, 3) beside each other, enlarged without smoothing so that the pixels stay visible."""
    row = Image.new("RGB", (len(images) * (SIDE + GAP) - GAP, SIDE), "white")
    for n, image in enumerate(images):
        picture = Image.fromarray((image * 255).round().byte().numpy())
        row.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (n * (SIDE + GAP), 0))
    return row
