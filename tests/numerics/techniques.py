"""The step caches under test: both nodes, both decisions, both predictors; `each` runs a test for all of them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

Apply = Callable[[ModelPatcher], ModelPatcher]


@dataclass(frozen=True)
class Technique:
    """`apply` with settings that skip about half the steps of the tiny Flux, `never` with the one that must not.

    `probes` tells that skipped steps still run the first block (and so a ControlNet before it).
    """

    name: str
    apply: Apply
    never: Apply
    probes: bool = False


def _forecast(**settings) -> Apply:
    return lambda model: apply_velocity_forecast(model, ForecastConfig(**settings))


def _first_block(**settings) -> Apply:
    return lambda model: apply_first_block_cache(model, FirstBlockCacheConfig(**settings))


TAIL = {"decision": "change", "predictor": "tail residual"}
FORECAST = Technique("Forecast", _forecast(tolerance=0.5), _forecast(tolerance=0.0))
FIRST_BLOCK = Technique(
    "First Block", _first_block(residual_diff_threshold=0.2), _first_block(residual_diff_threshold=0.0), probes=True
)
FIRST_BLOCK_TAIL = Technique(
    "First Block, tail",
    _first_block(residual_diff_threshold=0.2, **TAIL),
    _first_block(residual_diff_threshold=0.0, **TAIL),
    probes=True,
)
TECHNIQUES = (FORECAST, FIRST_BLOCK, FIRST_BLOCK_TAIL)

both_nodes = pytest.mark.parametrize("technique", TECHNIQUES[:2], ids=lambda technique: technique.name)
each = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)
