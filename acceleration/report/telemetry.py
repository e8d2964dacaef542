"""What happened in a sampling run: per model call seconds, full or skipped, and why. Plain numbers, no tensors.

A technique records each run into the `RunLog` that travels with its MODEL (as an attachment of the model patcher, so a
clone made by a LoRA node behind it reports into the same log). The Speed Report node reads it from there.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from comfy_execution.utils import get_executing_context

LOG = logging.getLogger("velocity")
ATTACHMENT = "velocity_runs"
NEIGHBOURS = 3  # full calls that tell the price of a skipped one


@dataclass
class StepRecord:
    """One call of the denoiser by the sampler.

    `index` is the sampler's step (a sampler may call more than once per step), `sigma` its noise level, `seconds` its
    wall-clock time. `metric` is what was compared with `limit` to decide; both are None where nothing was to decide.
    `evaluations` are those that the call asked of the model, run or skipped: for each time that the guider evaluated
    its conditionings how many were active, in whole latents, and how many ControlNets. Empty where nobody counted.
    """

    index: int
    sigma: float
    seconds: float
    full: bool
    metric: float | None = None
    limit: float | None = None
    evaluations: tuple[tuple[float, int], ...] = ()


def full_prices(steps: Sequence[StepRecord]) -> list[float]:
    """Return the seconds that each call costs in full, 0 where none was full.

    That is the median of the nearest full calls with the same evaluations: guidance, regions and ControlNets come and
    go within a run. Where there is none, of the nearest full calls, in proportion to the number of evaluations.
    """
    full = [(place, step) for place, step in enumerate(steps) if step.full]
    prices = []
    for place, step in enumerate(steps):
        like = [pair for pair in full if pair[1].evaluations == step.evaluations] or full
        nearest = sorted(like, key=lambda pair: abs(pair[0] - place))[:NEIGHBOURS]
        seconds = sorted(other.seconds * _amount(step) / _amount(other) for _, other in nearest)
        # Of two middle ones the lower, so that a slow first call (warm-up) beside one other never raises a price.
        prices.append(seconds[(len(seconds) - 1) // 2] if seconds else 0.0)
    return prices


def _amount(step: StepRecord) -> float:
    return sum(count for count, _ in step.evaluations) or 1.0


def _executing(name: str) -> str:
    context = get_executing_context()
    return str(getattr(context, name)) if context else ""


@dataclass
class RunRecord:
    """One sampling run. `seconds` is the wall-clock time of the whole run.

    `peak_memory` is in bytes, and None where torch does not know it.
    `prompt` and `node` are the ids of the queued prompt and of the sampler node that ComfyUI is executing; they fill
    themselves in and are empty outside a ComfyUI server.
    """

    technique: str
    model: str
    device: str
    route: str = "local"
    planned_steps: int = 0
    steps: list[StepRecord] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory: int | None = None
    completed: bool = False
    prompt: str = field(default_factory=lambda: _executing("prompt_id"))
    node: str = field(default_factory=lambda: _executing("node_id"))

    @property
    def full(self) -> int:
        """Calls that ran the whole model."""
        return sum(step.full for step in self.steps)

    @property
    def skipped(self) -> int:
        """Calls answered without running the whole model."""
        return len(self.steps) - self.full

    @property
    def seconds_saved(self) -> float:
        """Estimated: what the skipped calls would have cost (`full_prices`), less what they did cost.

        Negative where skipping cost more than it saved.
        """
        prices = full_prices(self.steps) if self.full else []
        return sum(price - step.seconds for price, step in zip(prices, self.steps, strict=False) if not step.full)

    @property
    def speedup(self) -> float:
        """Estimated time without skipping over the time that was needed; 1 where nothing was measured."""
        return (self.seconds + self.seconds_saved) / self.seconds if self.seconds > 0 else 1.0

    def summary(self) -> str:
        """Return the one line that is logged at the end of a run."""
        state = "" if self.completed else " (interrupted)"
        return (
            f"{self.technique}: {len(self.steps)} model calls, {self.full} full, {self.skipped} skipped, "
            f"about {self.seconds_saved:.2f} s saved of {self.seconds + self.seconds_saved:.2f} s{state}"
        )


class RunLog:
    """The last few runs of one MODEL, oldest first; bounded, so a long session does not grow."""

    def __init__(self, keep: int = 64) -> None:
        self._runs: deque[RunRecord] = deque(maxlen=keep)

    def add(self, run: RunRecord) -> None:
        """Keep `run` and log its summary line."""
        self._runs.append(run)
        LOG.info(run.summary())

    def latest(self) -> list[RunRecord]:
        """Return the runs of the newest queued prompt, oldest first (each sampler's in it); without a server three."""
        runs = [run for run in self._runs if run.prompt == self._runs[-1].prompt]
        return runs if runs and runs[-1].prompt else runs[-3:]

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)
