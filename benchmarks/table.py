"""The measured points and the verdicts as Markdown."""

from collections.abc import Sequence

from .report import verdict_lines
from .targets import Point, Verdict

HEAD = (
    "| method | setting | wall clock | CPU time | fewer calls | full calls | + block 0 only "
    "| PSNR mean | PSNR worst | to the 200-step picture |"
)
RULE = "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"


def markdown(notes: dict[str, str | int], points: Sequence[Point], verdicts: Sequence[Verdict]) -> str:
    """Return the whole report: what it was measured on, one table per sampler, the targets."""
    lines = ["# Step caches on the tiny Flux", ""]
    lines += [", ".join(f"{name} {value}" for name, value in notes.items()), ""]
    for sampler in dict.fromkeys((point.sampler, point.scheduler) for point in points):
        lines += [f"## {' '.join(sampler)}", "", HEAD, RULE]
        mine = [point for point in points if (point.sampler, point.scheduler) == sampler]
        families = list(dict.fromkeys(point.family for point in mine))
        lines += [_row(p) for p in sorted(mine, key=lambda p: (families.index(p.family), p.step_ratio))]
        lines.append("")
    return "\n".join([*lines, *verdict_lines(verdicts)])


def _row(point: Point) -> str:
    setting = f"{point.setting} ({point.preset})" if point.preset else point.setting
    cells = (
        point.family,
        setting,
        f"{point.speedup:.2f}x",
        f"{point.cpu_speedup:.2f}x",
        f"{point.step_ratio:.2f}x",
        f"{point.full_calls:.1f}",
        f"{point.begun_calls - point.full_calls:.1f}",
        f"{point.psnr_mean:.1f}",
        f"{point.psnr_worst:.1f}",
        f"{point.truth_mean:.1f}",
    )
    return f"| {' | '.join(cells)} |"
