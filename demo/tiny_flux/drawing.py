"""Draws the pictures the tiny model was trained on: one shape, in a colour, of a size, at a place, on a background."""

import random
from dataclasses import dataclass

import torch

from .words import COLOURS, PLACES, SHAPES, SIZES

PIXELS = 64


@dataclass(frozen=True)
class Scene:
    """One picture in words; every field is a word of the vocabulary."""

    size: str
    colour: str
    shape: str
    place: str
    background: str

    def prompt(self) -> str:
        """Return the sentence that asks for this picture."""
        return f"a {self.size} {self.colour} {self.shape} at the {self.place} on a {self.background} background"


def random_scene() -> Scene:
    """Return a scene drawn with Python's global random generator; shape and background differ in colour."""
    colour, background = random.sample(list(COLOURS), 2)
    shape, place, size = random.choice(SHAPES), random.choice(list(PLACES)), random.choice(list(SIZES))
    return Scene(size, colour, shape, place, background)


def draw(scene: Scene, wobble: bool = False) -> torch.Tensor:
    """Return the picture (3, 64, 64) in -1..1; `wobble` moves and scales the shape a little at random."""
    (left, top), radius = PLACES[scene.place], SIZES[scene.size]
    if wobble:
        left, top = left + random.uniform(-0.08, 0.08), top + random.uniform(-0.08, 0.08)
        radius *= random.uniform(0.9, 1.1)
    axis = torch.linspace(-1, 1, PIXELS)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    distance = _inside((columns - left) / radius, (rows - top) / radius, scene.shape)
    mask = (distance * radius * PIXELS / 2 + 0.5).clamp(0, 1)  # one pixel of soft edge
    colour = torch.tensor(COLOURS[scene.colour])[:, None, None]
    background = torch.tensor(COLOURS[scene.background])[:, None, None] * (1 - 0.15 * (rows + 1) / 2)
    return (colour * mask + background * (1 - mask)) * 2 - 1


def _inside(x: torch.Tensor, y: torch.Tensor, shape: str) -> torch.Tensor:
    """Return how deep each point (in units of the radius) lies inside the shape; negative is outside."""
    if shape == "circle":
        return 1 - torch.hypot(x, y)
    if shape == "square":
        return 0.85 - torch.maximum(x.abs(), y.abs())
    if shape == "ring":
        return 0.25 - (torch.hypot(x, y) - 0.75).abs()
    return torch.minimum(0.8 - y, (y + 1) * 0.5 - x.abs() * 0.9).clamp(max=1.0)
