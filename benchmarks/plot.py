"""`python -m nox -s bench -- plot`: draws results/cache.json again, one row per sampler."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    Point,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind people tell apart; ours are strong lines, rivals thin.
STYLE = {
    FORECAST: ("#0072B2", "-", 2.4),
    VERIFIED: ("#D55E00", "-", 2.4),
    CHANGE: ("#E69F00", "-", 1.6),
    TAIL: ("#999999", "-", 1.2),
    EASYCACHE: ("#009E73", "-", 1.2),
    EASYCACHE_OURS: ("#009E73", (0, (5, 2)), 1.2),
    LAZYCACHE: ("#CC79A7", "-", 1.2),
    LAZYCACHE_OURS: ("#CC79A7", (0, (5, 2)), 1.2),
    FEWER: ("#000000", "-", 1.2),
    SECOND_ORDER: ("#000000", (0, (5, 2)), 1.2),
}
AXES = (("speedup", "times faster, wall clock"), ("step_ratio", "times fewer full model calls"))
MOST = 4.0  # right end of the axes
FLOOR, CEILING = 20.0, 70.0  # dB
LABEL_GAP = 3.4  # dB between labels
DPI, WIDTH, ROW = 100, 14.0, 4.2  # inches
INK, FAINT = "#333333", "#E4E4E4"


def draw(points: Sequence[Point], path: Path) -> None:
    """Write the plot of all samplers to `path` (PNG, 1400 pixels wide)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samplers = list(dict.fromkeys((point.sampler, point.scheduler) for point in points))
    height = ROW * len(samplers) + 0.9
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(samplers), 2, squeeze=False)
    figure.subplots_adjust(left=0.05, right=0.855, top=1 - 0.95 / height, bottom=0.6 / height, hspace=0.28, wspace=0.4)
    figure.text(0.05, 1 - 0.3 / height, "PSNR against the picture of the user's own settings", size=14, color=INK)
    note = "Lines: mean over the prompts. Dotted: the worst prompt. Rings: our presets. Up and right is better."
    figure.text(0.05, 1 - 0.55 / height, note, size=9.5, color=INK)
    for row, sampler in zip(grid, samplers, strict=True):
        mine = [point for point in points if (point.sampler, point.scheduler) == sampler]
        for axes, (attribute, label) in zip(row, AXES, strict=True):
            _panel(axes, mine, attribute)
            axes.set_title(" ".join(sampler), loc="left", size=11, color=INK, weight="bold")
            axes.set_xlabel(label, size=9, color=INK)
        row[0].set_ylabel("PSNR, dB", size=9, color=INK)
    figure.savefig(path)


def _panel(axes: "Axes", points: Sequence[Point], attribute: str) -> None:
    """Draw every family's curve and write its name at the right, in the order of the ends."""
    axes.set_xlim(1.0, MOST)
    axes.set_ylim(FLOOR, CEILING)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    ends = []
    for family, (colour, dashes, width) in STYLE.items():
        curve = sorted((getattr(p, attribute), p.psnr_mean, p.psnr_worst) for p in points if p.family == family)
        if not curve:
            continue
        x, mean, worst = zip(*curve, strict=True)
        axes.plot(x, mean, color=colour, linestyle=dashes, linewidth=width, marker="o", markersize=width + 1.2)
        axes.plot(x, worst, color=colour, linestyle=":", linewidth=0.9, alpha=0.7)
        end = _visible_end(list(zip(x, mean, strict=True)))
        if end:
            ends.append((end, family, colour))
    for point in points:
        if point.preset and point.family in STYLE:
            place = getattr(point, attribute), point.psnr_mean
            axes.plot(*place, "o", markersize=10, markerfacecolor="none", markeredgecolor=STYLE[point.family][0])
    _labels(axes, ends)


def _visible_end(curve: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Return the last place of the curve inside the panel: its last point, or where it crosses the right side."""
    end = None
    for (x, y), (to_x, to_y) in zip(curve, [*curve[1:], curve[-1]], strict=True):
        if x > MOST:
            break
        if FLOOR <= y <= CEILING:
            end = (x, y)
        if to_x > MOST:
            crossing = y + (to_y - y) * (MOST - x) / (to_x - x)
            end = (MOST, crossing) if FLOOR <= crossing <= CEILING else end
    return end


def _labels(axes: "Axes", ends: list[tuple[tuple[float, float], str, str]]) -> None:
    """Name the curves beside the panel, apart from each other, with a hairline to the end of each."""
    ends.sort(key=lambda end: end[0][1])
    heights: list[float] = []
    for (_, value), _, _ in ends:
        heights.append(max(value, heights[-1] + LABEL_GAP if heights else FLOOR))
    for index in range(len(heights) - 1, -1, -1):  # push down what went over the top
        highest = CEILING - LABEL_GAP * (len(heights) - 1 - index)
        heights[index] = min(heights[index], highest)
    for (place, family, colour), height in zip(ends, heights, strict=True):
        axes.plot((place[0], MOST + 0.05), (place[1], height), color=colour, linewidth=0.4, clip_on=False)
        axes.text(MOST + 0.07, height, family, color=colour, size=8.5, va="center", clip_on=False)


def main() -> None:
    """Draw the kept results again."""
    folder = Path(__file__).parent / "results"
    if not (folder / "cache.json").is_file():
        raise SystemExit("there is no results/cache.json to draw: run `python -m nox -s bench -- cache` first")
    data = json.loads((folder / "cache.json").read_text(encoding="utf-8"))
    draw([Point(**point) for point in data["points"]], folder / "cache.png")
    print(f"wrote {folder / 'cache.png'}")


if __name__ == "__main__":
    main()
