"""What the presets leave alone when there are few steps: the README promises it for distilled models."""

import pytest
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.presets import FIRST_BLOCK, FORECAST, resolve
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .sampling import last_record, sample, stock, tiny_flux


@pytest.mark.parametrize("preset", ["faithful", "balanced", "draft"])
@pytest.mark.parametrize(
    "apply, table, custom, first",
    [
        (apply_velocity_forecast, FORECAST, ForecastConfig(), 3),
        (apply_first_block_cache, FIRST_BLOCK, FirstBlockCacheConfig(), 2),
    ],
    ids=["Velocity Forecast", "First Block Cache"],
)
def test_the_first_steps_and_the_last_one_always_run(apply, table, custom, first: int, preset: str) -> None:
    """Also where sampling begins in the middle of the schedule, behind First Block Cache's `start_percent`."""
    model, earliest = apply(tiny_flux(), resolve(table, "Flux", preset, custom)), []
    for settings in ({"steps": 4}, {"steps": 8}, {"steps": 5, "denoise": 0.6, "latent": stock().latent}):
        sample(model, **settings)
        full = [step.full for step in last_record(model).steps]
        assert full[-1]
        earliest.append(full.index(False) if False in full else len(full))
    assert min(earliest) >= first
    if preset == "draft":
        assert min(earliest) == first, "more than the README says"
