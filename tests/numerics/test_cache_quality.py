"""The quality marks of the presets on the trained tiny Flux: how near, at how many model calls."""

import pytest
from velocity_nodes.acceleration.caching.presets import FORECAST, resolve
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast
from velocity_nodes.acceleration.report.quality import psnr as batch_psnr

from .sampling import prompt, sample, tiny_flux

PICTURES = (  # prompt, seed
    ("a large red circle at the left on a blue background", 2),
    ("a large yellow ring at the center on a purple background", 5),
    ("a large white circle at the right on a black background", 1),
    ("a small orange square at the top on a green background", 3),
    ("a large black triangle at the bottom on a white background", 8),
)


def measured(preset: str) -> tuple[float, list[int]]:
    """Return the mean PSNR (dB) over the pictures and the full calls of each, Euler with 28 steps."""
    config = resolve(FORECAST, "Flux", preset, ForecastConfig())
    model = apply_velocity_forecast(tiny_flux(), config)
    quality, calls = [], []
    for text, seed in PICTURES:
        settings = {"positive": prompt(text), "seed": seed, "steps": 28}
        reference, result = sample(tiny_flux(), **settings), sample(model, **settings)
        quality.append(batch_psnr(reference.image, result.image))
        calls.append(len(result.passes))
    return sum(quality) / len(quality), calls


@pytest.mark.parametrize("preset, near, most_calls", [("faithful", 48, 18), ("balanced", 44, 13), ("draft", 38, 10)])
def test_presets_keep_their_marks(preset: str, near: float, most_calls: int) -> None:
    quality, calls = measured(preset)
    assert quality > near
    assert max(calls) <= most_calls
