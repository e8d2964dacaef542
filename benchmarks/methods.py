"""What is compared: each `Method` is one configuration, a family is one curve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.caching import presets
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .rivals import DEFAULT_WINDOW, easycache, lazycache, our_window
from .targets import (
    CHANGE,
    EASYCACHE,
    EASYCACHE_OURS,
    FEWER,
    FORECAST,
    LAZYCACHE,
    LAZYCACHE_OURS,
    SECOND_ORDER,
    TAIL,
    VERIFIED,
)
from .tiny_flux import Settings

SECOND_ORDER_SAMPLER = "dpmpp_2m"
STOCHASTIC = ("euler_ancestral",)
ARCHITECTURE = "Flux"  # the row of the presets

Apply = Callable[[ModelPatcher], ModelPatcher]


@dataclass(frozen=True)
class Method:
    """One configuration: `apply` puts it on the model, `settings` are the sampler's, `setting` says what varies."""

    family: str
    setting: str
    settings: Settings
    apply: Apply
    preset: str = ""


def forecast(settings: Settings, tolerances: Sequence[float]) -> list[Method]:
    """Return Velocity Forecast at every preset and at more `tolerances`, all else as in `balanced`."""
    row = {**presets.FORECAST[presets.ANY], **presets.FORECAST.get(ARCHITECTURE, {})}
    more = [replace(row["balanced"], tolerance=tolerance) for tolerance in tolerances]
    configs = [*row.items(), *(("", config) for config in more if config not in row.values())]
    return [
        Method(FORECAST, f"{config.tolerance:g}", settings, _forecast(config), preset) for preset, config in configs
    ]


def first_block(settings: Settings, thresholds: dict[str, Sequence[float]]) -> list[Method]:
    """Return First Block Cache at every preset and at more `thresholds` of each family, all else as in `balanced`."""
    row = {**presets.FIRST_BLOCK[presets.ANY], **presets.FIRST_BLOCK.get(ARCHITECTURE, {})}
    configs = list(row.items())
    for family, (decision, predictor) in FIRST_BLOCK_FAMILIES.items():
        base = replace(row["balanced"], decision=decision, predictor=predictor)
        more = [replace(base, residual_diff_threshold=value) for value in thresholds.get(family, ())]
        configs += [("", config) for config in more if config not in row.values()]
    return [
        Method(_family(config), f"{config.residual_diff_threshold:g}", settings, _first_block(config), preset)
        for preset, config in configs
    ]


def core_caches(model: ModelPatcher, settings: Settings, thresholds: dict[str, Sequence[float]]) -> list[Method]:
    """Return EasyCache and LazyCache at `thresholds`, with their default window and with ours."""
    ours = our_window(model, settings)
    kinds = {
        EASYCACHE: (easycache, DEFAULT_WINDOW),
        EASYCACHE_OURS: (easycache, ours),
        LAZYCACHE: (lazycache, DEFAULT_WINDOW),
        LAZYCACHE_OURS: (lazycache, ours),
    }
    return [
        Method(family, f"{value:g}", settings, _core(function, value, window))
        for family, (function, window) in kinds.items()
        for value in thresholds[family]
    ]


def fewer_steps(settings: Settings, counts: Sequence[int], second_order_counts: Sequence[int]) -> list[Method]:
    """Return the same sampler with fewer steps, and a second-order one (unless it is the same)."""
    rows = [(FEWER, settings.with_steps(count)) for count in counts]
    if settings.sampler != SECOND_ORDER_SAMPLER:
        rows += [(SECOND_ORDER, settings.with_steps(count, SECOND_ORDER_SAMPLER)) for count in second_order_counts]
    return [Method(family, f"{fewer.steps} steps", fewer, _nothing) for family, fewer in rows]


FIRST_BLOCK_FAMILIES = {
    VERIFIED: ("verified", "output forecast"),
    CHANGE: ("change", "output forecast"),
    TAIL: ("change", "tail residual"),
}


def _family(config: FirstBlockCacheConfig) -> str:
    wanted = (config.decision, config.predictor)
    return next((family for family, kind in FIRST_BLOCK_FAMILIES.items() if kind == wanted), "First Block Cache")


def _forecast(config: ForecastConfig) -> Apply:
    return lambda model: apply_velocity_forecast(model, config)


def _first_block(config: FirstBlockCacheConfig) -> Apply:
    return lambda model: apply_first_block_cache(model, config)


def _core(function: Callable, threshold: float, window: tuple[float, float]) -> Apply:
    return lambda model: function(model, threshold, window)


def _nothing(model: ModelPatcher) -> ModelPatcher:
    return model
