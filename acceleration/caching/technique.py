"""What the step cache (`step_cache.py`) and the techniques that decide for it tell each other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .forecast import History

Outputs = list[torch.Tensor]  # denoised output per conditioning; zeros where a conditioning is None


@dataclass
class Stream:
    """What is remembered of one of the evaluations that a guider makes per step (most make one).

    `active` is what the history holds for (`active_conditioning.signature`).
    `skips` counts the calls skipped since the last full one, `skipped` lists (time, length) of those the forecast
    answered, `drift` is their estimated error so far. The last call was at `latent` and `time`, and its answer was
    `velocity` (guided, B, ...).
    """

    history: History
    active: tuple = ()
    skips: int = 0
    skipped: list[tuple[float, float]] = field(default_factory=list)
    drift: float = 0.0
    latent: torch.Tensor | None = None
    velocity: torch.Tensor | None = None
    time: float = 0.0


@dataclass
class Call:
    """One evaluation of the conditionings at latent `x` (B, ...).

    `length` is the signed length of the coming step in `time`, `share` its size over the schedule's mean step, `index`
    the step, `ordinal` counts the evaluations that the guider makes within it.
    """

    x: torch.Tensor
    sigma: float
    time: float
    length: float
    share: float
    index: int
    ordinal: int
    stream: Stream


@dataclass
class Attempt:
    """What a technique made of a call: `outputs` when it ran the model, None to use the forecast; and why."""

    outputs: Outputs | None
    metric: float | None
    skipped: bool


class Technique(Protocol):
    """Decides whether a call may be skipped. One instance per run."""

    name: str
    limit: float
    order: int
    most_skips: int  # consecutive, -1 no limit

    def in_window(self, index: int, steps: int, sigma: float) -> bool:
        """Whether the sampler's step may be skipped at all."""

    def attempt(self, call: Call, run_model: Callable[[], Outputs]) -> Attempt:
        """Decide, running the model where needed."""

    def observe(self, call: Call, run_model: Callable[[], Outputs]) -> Outputs:
        """Run a full step and remember what deciding will need."""

    def wrappers(self) -> dict[str, Callable]:
        """Further wrappers the technique needs during the run, by wrapper type."""

    def forget(self) -> None:
        """Free the tensors of the run."""
