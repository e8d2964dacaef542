"""The words of the speed report: headline, details and the plain text version. ASCII, plain numbers."""

import math
from collections.abc import Sequence

from .quality import Quality
from .telemetry import RunRecord

# Largest value shown in each unit, its factor and name.
UNITS = ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (math.inf, 1 / 60, "min"))


def time_unit(seconds: float) -> tuple[float, str]:
    """Return (factor, name) of the unit that suits `seconds`: multiply by the factor to get that unit."""
    return next((factor, name) for largest, factor, name in UNITS if not abs(seconds) >= largest)


def duration(seconds: float) -> str:
    """Return `seconds` with two or three digits and a fitting unit: `85 ms`, `1.9 s`, `2.5 min`."""
    factor, unit = time_unit(seconds)
    value = seconds * factor
    return f"{value:.{2 if abs(value) < 1 else 1 if abs(value) < 10 else 0}f} {unit}"


def headline(run: RunRecord) -> str:
    """Return the totals of a run: `28 calls: 12 full, 16 skipped. 1.9 s, about 1.7 s saved (1.9x)`."""
    count = len(run.steps)
    if not count:
        return "No model call was recorded" + (": the run was interrupted before its first step" * (not run.completed))
    line = (
        f"{count} {'call' if count == 1 else 'calls'}: {run.full} full, {run.skipped} skipped. {duration(run.seconds)}"
    )
    if run.skipped and run.full:
        saved = run.seconds_saved
        line += f", about {duration(abs(saved))} {'saved' if saved >= 0 else 'lost'} ({run.speedup:.1f}x)"
    return line + ("" if run.completed else ". Interrupted")


def details(run: RunRecord) -> list[str]:
    """Return what is known about the circumstances: technique, model, device, route, steps, node, peak memory."""
    facts = [run.technique, run.model, run.device, run.route]
    if run.planned_steps not in (0, len(run.steps)):
        facts.append(f"{run.planned_steps} steps planned")
    if run.node:
        facts.append(f"sampler #{run.node}")
    if run.peak_memory is not None:
        facts.append(f"peak {run.peak_memory / 2**30:.1f} GiB")
    return [fact for fact in facts if fact]


def quality_words(quality: Quality) -> list[str]:
    """Return PSNR and SSIM in words, with the worst image where there are several."""
    count, worst = len(quality.psnr), quality.worst
    psnr, ssim = decibel(quality.mean_psnr), f"SSIM {quality.mean_ssim:.4f}"
    if count > 1:
        psnr += f" (worst of {count}: {decibel(quality.psnr[worst])})"
        ssim += f" (worst {min(quality.ssim):.4f})"
    return [f"PSNR {psnr}", ssim]


def decibel(value: float) -> str:
    """Return a PSNR in words."""
    if math.isnan(value):
        return "not a number"
    return "infinite (identical)" if math.isinf(value) else f"{value:.1f} dB"


def shorten(text: str, most: int) -> str:
    """Return `text` cut in its middle to `most` characters: the ends of long file names are what tells them apart."""
    head = (most - 3) // 2
    return text if len(text) <= most else f"{text[:head]}...{text[len(text) - (most - 3 - head) :]}"


def require_runs(runs: Sequence[RunRecord]) -> None:
    """Raise `ValueError` where there is nothing to report, saying how to connect the report."""
    if not runs:
        raise ValueError(
            "no run has been recorded with this model yet. Connect 'after' to the output of the sampler, so that the "
            "report runs when the sampler is done, and connect 'model' to the very model the sampler uses: the output "
            "of Velocity Forecast or First Block Cache, or of a node behind it"
        )


def speed_text(runs: Sequence[RunRecord], quality: Quality | None = None) -> str:
    """Return the report as ASCII text: two lines a run and the calls in order, newest run last.

    Each call is one letter: F full, s skipped. Raises `ValueError` without runs.
    """
    require_runs(runs)
    lines = []
    for run in runs:
        lines += [headline(run), ", ".join(details(run))]
        if run.steps:
            lines.append("".join("F" if step.full else "s" for step in run.steps))
        lines.append("")
    if quality:
        lines.append("Against the reference: " + ", ".join(quality_words(quality)))
    return "\n".join(lines).strip().encode("ascii", "replace").decode("ascii")
