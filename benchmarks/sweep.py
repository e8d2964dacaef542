"""Runs every method beside the plain model on the same prompts and seeds, and sums up."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from velocity_nodes.acceleration.report.quality import psnr_each

from .methods import Method
from .targets import Point
from .tiny_flux import Painting, Settings, TinyFlux

ROUND = 8  # a run of the plain model follows after this many runs of methods
IDENTICAL = 99.0  # dB, in place of infinity, so that a mean exists
TRUTH = Settings("euler", "simple", 200)


@dataclass
class Tally:
    """Sums over the prompts of one method, and of the plain runs beside it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    full: int = 0
    begun: int = 0
    plain_seconds: float = 0.0
    plain_cpu_seconds: float = 0.0
    plain_full: int = 0
    psnr: list[float] = field(default_factory=list)
    truth: list[float] = field(default_factory=list)

    def add(self, painting: Painting, before: Painting, after: Painting) -> None:
        """Add a run and the mean of the plain runs before and after it."""
        self.seconds += painting.seconds
        self.cpu_seconds += painting.cpu_seconds
        self.full += painting.full_calls
        self.begun += painting.begun_calls
        self.plain_seconds += (before.seconds + after.seconds) / 2
        self.plain_cpu_seconds += (before.cpu_seconds + after.cpu_seconds) / 2
        self.plain_full += before.full_calls
        self.psnr.append(_psnr(before.picture, painting.picture))


class Sweep:
    """All methods of one sampler."""

    def __init__(self, flux: TinyFlux, settings: Settings, methods: Sequence[Method]) -> None:
        self.flux = flux
        self.settings = settings
        self.methods = [(method, method.apply(flux.model), Tally()) for method in methods]
        self.plain_truth: list[float] = []
        self.plain_runs: list[Painting] = []
        self.order = random.Random(0)

    def run(self, prompt: str, seed: int, truth: torch.Tensor) -> None:
        """Paint `prompt` with every method, in a random order, with plain runs between; keep the numbers only."""
        rest = self.order.sample(self.methods, len(self.methods))
        before = self._plain(prompt, seed)
        self.plain_truth.append(_psnr(truth, before.picture))
        while rest:
            some, rest = rest[:ROUND], rest[ROUND:]
            runs = [self.flux.paint(model, method.settings, prompt, seed) for method, model, _ in some]
            after = self._plain(prompt, seed)
            for (_, _, tally), painting in zip(some, runs, strict=True):
                tally.add(painting, before, after)
                tally.truth.append(_psnr(truth, painting.picture))
            before = after

    def points(self) -> list[Point]:
        """Return the plain model's point (speed-up 1) and one for each method."""
        calls = sum(run.full_calls for run in self.plain_runs) / len(self.plain_runs)
        count, names = len(self.plain_truth), (self.settings.sampler, self.settings.scheduler)
        plain = Point(*names, "no cache", f"{self.settings.steps} steps", "", 1.0, 1.0, 1.0, IDENTICAL, IDENTICAL,
                      sum(self.plain_truth) / count, calls, calls)  # fmt: skip
        return [plain, *(_point(self.settings, method, tally) for method, _, tally in self.methods)]

    def steadiness(self) -> str:
        """Return the median of the plain runs and their spread: a large one says that the machine was busy."""
        low, middle, high = statistics.quantiles([run.seconds for run in self.plain_runs], n=4)
        return f"{middle:.3f} s (half of them within {100 * (high - low) / middle:.0f} %)"

    def _plain(self, prompt: str, seed: int) -> Painting:
        painting = self.flux.paint(self.flux.model, self.settings, prompt, seed)
        self.plain_runs.append(painting)
        return painting


def _point(settings: Settings, method: Method, tally: Tally) -> Point:
    count = len(tally.psnr)
    return Point(
        sampler=settings.sampler,
        scheduler=settings.scheduler,
        family=method.family,
        setting=method.setting,
        preset=method.preset,
        step_ratio=tally.plain_full / tally.full,
        speedup=tally.plain_seconds / tally.seconds,
        cpu_speedup=tally.plain_cpu_seconds / tally.cpu_seconds,
        psnr_mean=sum(tally.psnr) / count,
        psnr_worst=min(tally.psnr),
        truth_mean=sum(tally.truth) / count,
        full_calls=tally.full / count,
        begun_calls=tally.begun / count,
        psnr=[round(value, 2) for value in tally.psnr],
    )


def _psnr(reference: torch.Tensor, picture: torch.Tensor) -> float:
    value = psnr_each(reference, picture)[0]
    return IDENTICAL if math.isinf(value) else value
