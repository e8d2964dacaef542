"""What the issue asks of the caches, and whether the measured points meet it. Pure functions on `Point`s."""

from collections.abc import Sequence
from dataclasses import dataclass, field

FORECAST = "Velocity Forecast"
VERIFIED = "First Block Cache, verified"
CHANGE = "First Block Cache, change"
TAIL = "tail residual (classic)"
EASYCACHE, EASYCACHE_OURS = "EasyCache", "EasyCache, our window"
LAZYCACHE, LAZYCACHE_OURS = "LazyCache", "LazyCache, our window"
FEWER, SECOND_ORDER = "fewer steps", "dpmpp_2m, fewer steps"

EULER_TARGETS = ((2.0, 48.0, 42.0), (2.5, 45.0, 40.0), (3.0, 42.0, 37.0))  # speed-up, mean and worst PSNR in dB
ABOVE_EASYCACHE, ABOVE_FEWER_STEPS = 6.0, 3.0  # dB
BALANCED = (2.2, 45.0)  # speed-up, mean PSNR in dB


@dataclass
class Point:
    """One configuration with one sampler, over all prompts. PSNR in dB against the user's own settings (`psnr_*`) and
    against the 200-step solution (`truth_mean`); `speedup` is of wall-clock time, `step_ratio` of full model calls."""

    sampler: str
    scheduler: str
    family: str
    setting: str
    preset: str
    step_ratio: float
    speedup: float
    cpu_speedup: float
    psnr_mean: float
    psnr_worst: float
    truth_mean: float
    full_calls: float = 0.0  # mean per picture
    begun_calls: float = 0.0  # those plus the calls that stopped behind block 0
    psnr: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """One target: what is wanted, what was measured, and whether that meets it (None: not judged)."""

    name: str
    wanted: str
    measured: str
    met: bool | None

    def line(self) -> str:
        """Return the target as one line of text."""
        word = {True: "met", False: "MISSED", None: "-"}[self.met]
        return f"{word:<7} {self.name}: wanted {self.wanted}, measured {self.measured}"


def value_at(points: Sequence[tuple[float, float]], speedup: float) -> float | None:
    """Return the PSNR at `speedup` from (speed-up, PSNR) points of one family, linear between its neighbours.

    None when no point is that fast. When all are faster, the PSNR of the slowest: it is at least that good.
    """
    ordered = sorted(points)
    if not ordered or ordered[-1][0] < speedup:
        return None
    if speedup <= ordered[0][0]:
        return ordered[0][1]
    for (left, low), (right, high) in zip(ordered, ordered[1:], strict=False):
        if left <= speedup <= right:
            return high if right == left else low + (high - low) * (speedup - left) / (right - left)
    raise AssertionError("unreachable: the speed-up lies between two neighbours")


def judge(points: Sequence[Point], stochastic: Sequence[str]) -> list[Verdict]:
    """Return the verdict on every target that the points can decide, for each family that has presets (our nodes).

    Samplers named in `stochastic` have no targets: each step's noise is new, so there is nothing to forecast.
    """
    verdicts = []
    for family in dict.fromkeys(point.family for point in points if point.preset):
        verdicts += _euler_targets(points, family)
        verdicts += _balanced(points, family)
        for sampler in dict.fromkeys(point.sampler for point in points if point.sampler not in stochastic):
            mine = [point for point in points if point.sampler == sampler]
            verdicts += _margins(mine, sampler, family)
    return verdicts


def _curve(points: Sequence[Point], family: str, worst: bool = False) -> list[tuple[float, float]]:
    return [(p.speedup, p.psnr_worst if worst else p.psnr_mean) for p in points if p.family == family]


def _euler_targets(points: Sequence[Point], family: str) -> list[Verdict]:
    euler = [point for point in points if point.sampler == "euler"]
    verdicts = []
    for speedup, mean, worst in EULER_TARGETS if euler else ():
        measured = [value_at(_curve(euler, family, worst=flag), speedup) for flag in (False, True)]
        met = None not in measured and measured[0] >= mean and measured[1] >= worst
        wanted = f"at least {mean:g} dB mean, {worst:g} dB worst"
        text = "never that fast" if None in measured else f"{measured[0]:.1f} mean, {measured[1]:.1f} worst"
        verdicts.append(Verdict(f"{family}, euler, {speedup:g}x wall clock", wanted, text, met))
    return verdicts


def _balanced(points: Sequence[Point], family: str) -> list[Verdict]:
    verdicts = []
    for point in points:
        if (point.sampler, point.family, point.preset) == ("euler", family, "balanced"):
            met = point.speedup >= BALANCED[0] and point.psnr_mean >= BALANCED[1]
            wanted = f"at least {BALANCED[0]:g}x wall clock at {BALANCED[1]:g} dB mean"
            measured = f"{point.speedup:.2f}x at {point.psnr_mean:.1f} dB"
            verdicts.append(Verdict(f"{family}, euler, balanced", wanted, measured, met))
    return verdicts


def _margins(points: Sequence[Point], sampler: str, family: str) -> list[Verdict]:
    """Against each kind of rival at equal speed-up; of EasyCache's two windows the better counts."""
    verdicts = []
    for name, rivals, margin in (
        ("EasyCache", (EASYCACHE, EASYCACHE_OURS), ABOVE_EASYCACHE),
        (FEWER, (FEWER,), ABOVE_FEWER_STEPS),
        (SECOND_ORDER, (SECOND_ORDER,), ABOVE_FEWER_STEPS),
    ):
        if not any(point.family in rivals for point in points):
            continue
        parts = [_margin(points, family, rivals, speedup, margin) for speedup, _, _ in EULER_TARGETS]
        measured = ", ".join(text for text, _ in parts)
        wanted = f"at least {margin:g} dB more at each speed-up"
        verdicts.append(Verdict(f"{family}, {sampler}, over {name}", wanted, measured, all(met for _, met in parts)))
    return verdicts


def _margin(
    points: Sequence[Point], family: str, rivals: Sequence[str], speedup: float, margin: float
) -> tuple[str, bool]:
    """Compare at one speed-up. A rival that is never that fast is beaten, one of ours that is not has missed."""
    ours = value_at(_curve(points, family), speedup)
    reached = [value_at(_curve(points, rival), speedup) for rival in rivals]
    best = max((value for value in reached if value is not None), default=None)
    if ours is None:
        return f"{speedup:g}x never reached", False
    if best is None:
        return f"{speedup:g}x only ours ({ours:.1f} dB)", True
    return f"{speedup:g}x {ours - best:+.1f} dB ({ours:.1f} against {best:.1f})", ours - best >= margin
