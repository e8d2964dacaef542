"""What `faithful`, `balanced` and `draft` mean: one table, measured by `benchmarks/cache.py`.

`ANY` is the row for every architecture without one of its own; the others are keyed by the class name of the diffusion
model ("Flux", "WanModel").
"""

from typing import TypeVar

from .first_block_cache import FirstBlockCacheConfig
from .velocity_forecast import ForecastConfig

ANY = "any"
NAMES = ("faithful", "balanced", "draft", "custom")

FORECAST: dict[str, dict[str, ForecastConfig]] = {
    ANY: {
        "faithful": ForecastConfig(tolerance=0.15),
        "balanced": ForecastConfig(tolerance=0.35),
        "draft": ForecastConfig(tolerance=0.8),
    },
}

FIRST_BLOCK: dict[str, dict[str, FirstBlockCacheConfig]] = {
    ANY: {
        "faithful": FirstBlockCacheConfig(residual_diff_threshold=0.1),
        "balanced": FirstBlockCacheConfig(residual_diff_threshold=0.2),
        "draft": FirstBlockCacheConfig(residual_diff_threshold=0.4),
    },
}

Config = TypeVar("Config")


def resolve(table: dict[str, dict[str, Config]], architecture: str, preset: str, custom: Config) -> Config:
    """Return the configuration of `preset` for `architecture`; `custom` itself when that is the preset.

    Raises `ValueError` for a preset that is not in the table.
    """
    if preset == "custom":
        return custom
    row = {**table[ANY], **table.get(architecture, {})}
    if preset not in row:
        raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(NAMES)}")
    return row[preset]
