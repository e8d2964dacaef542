"""Velocity Forecast: skip steps whose outcome the steps before already tell, while the estimated error stays small.

The forecast is the model's own output (its velocity), extrapolated in time from the last full steps. Its embedded error
(`forecast.History.error`) times the length of the step is how far the latent would drift; skipping goes on while the
drift since the last full step stays below the tolerance. Costs no model call, knows nothing of the model's inside, and
so works on every model that ComfyUI samples.

Invariants: tolerance 0 is bit-identical to no node; a forecast whose error is not finite is never used.
"""

from collections.abc import Callable
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from .step_cache import apply_step_cache
from .technique import Attempt, Call, Outputs


@dataclass(frozen=True)
class ForecastConfig:
    """`tolerance` is the drift allowed between two full steps, in percent of the latent; 0 skips nothing.

    `order` of the polynomial (0 repeats, 1 continues straight, 2 bends); the first `warmup_steps` and the last
    `final_steps` of the sampler are never skipped, nor more than `max_consecutive_skips` in a row (-1: no limit).
    """

    tolerance: float = 0.35
    order: int = 1
    warmup_steps: int = 3
    final_steps: int = 1
    max_consecutive_skips: int = -1

    def __post_init__(self) -> None:
        if not self.tolerance >= 0.0:
            raise ValueError(f"tolerance is {self.tolerance}; it must be 0 (skip nothing) or a positive percentage")
        if self.order not in (0, 1, 2):
            raise ValueError(f"order is {self.order}; choose 0, 1 or 2")


class _Forecast:
    """The technique of one run."""

    name = "Velocity Forecast"

    def __init__(self, config: ForecastConfig) -> None:
        self.config = config
        self.limit = config.tolerance
        self.order = config.order
        self.most_skips = config.max_consecutive_skips

    def in_window(self, index: int, steps: int, sigma: float) -> bool:
        """Leave the first and the last steps alone."""
        return self.config.warmup_steps <= index < steps - self.config.final_steps

    def attempt(self, call: Call, run_model: Callable[[], Outputs]) -> Attempt:
        """Skip when the drift with this step added stays below the tolerance."""
        stream = call.stream
        error = stream.history.error(call.time).max().item()  # the worst sample decides
        drift = stream.drift + 100.0 * error * abs(call.length)
        if drift < self.limit:  # False for NaN
            stream.drift = drift
            return Attempt(None, drift, skipped=True)
        return Attempt(run_model(), drift, skipped=False)

    def observe(self, call: Call, run_model: Callable[[], Outputs]) -> Outputs:
        """A full step needs no more than the history that the engine keeps."""
        return run_model()

    def wrappers(self) -> dict[str, Callable]:
        """None: the engine's own are enough."""
        return {}

    def forget(self) -> None:
        """Nothing is kept here."""


def apply_velocity_forecast(model: ModelPatcher, config: ForecastConfig) -> ModelPatcher:
    """Return a clone of `model` that forecasts where it can. Raises `ValueError` when sampled with a second cache."""

    def technique(_: ModelPatcher) -> _Forecast:
        return _Forecast(config)

    return apply_step_cache(model, technique)
