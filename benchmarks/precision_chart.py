"""`python -m nox -s bench -- precision_chart`: draws results/precision.json again: error, picture, memory, time."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .gpu_chart import CORE, PLAIN
from .plot import DPI, FAINT, INK, WIDTH
from .precision_targets import CORE_FAST, JUDGED, MB, MOST_ERROR, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, JUDGED_COLOUR = "#56B4E9", "#0072B2"
LEGEND = {"16 bits": PLAIN, "ComfyUI's own": CORE, "ours, with targets": JUDGED_COLOUR, "ours": OURS}
BAR, HEAD = 0.34, 1.45  # inches
IDENTICAL = 99.0  # dB


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the chart to `path` (PNG, 1400 pixels wide): four panels, a bar for each method in each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = BAR * len(rows) + HEAD
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4, sharey=True)
    figure.subplots_adjust(left=0.14, right=0.965, top=1 - 1.1 / height, bottom=0.3 / height, wspace=0.3)
    figure.text(0.02, 1 - 0.35 / height, "Precisions of the loader: what they cost", size=14, color=INK)
    note = "Error and PSNR: trained tiny Flux, against 16 bits. Memory and seconds: random weights, shape of FLUX."
    figure.text(0.02, 1 - 0.6 / height, note, size=9.5, color=INK)
    for place, (label, colour) in zip((0.6, 0.66, 0.76, 0.89), LEGEND.items(), strict=True):
        figure.text(place, 1 - 0.35 / height, label, size=9.5, color=colour, weight="bold")
    errors, psnr, memory, seconds = panels
    _bars(errors, rows, "relative L2 error of a call", lambda row: row.error, lambda row: f"{row.error:.4f}")
    _limit(errors, rows)
    worst = lambda row: f"{row.psnr_mean:.0f}, worst {row.psnr_worst:.0f}"  # noqa: E731
    changed = lambda row: row.psnr_mean if row.psnr_mean < IDENTICAL else 0  # noqa: E731
    _bars(psnr, rows, "PSNR of the picture, dB", changed, lambda row: worst(row) if changed(row) else "identical")
    peak = lambda row: row.peak_private / MB  # noqa: E731
    size = lambda row: f"{peak(row):.0f}, model {row.size / MB:.0f}"  # noqa: E731
    _bars(memory, rows, "peak memory of the load, MB", peak, size)
    _bars(seconds, rows, "seconds to load", lambda row: row.seconds, lambda row: f"{row.seconds:.1f}")
    figure.savefig(path)


def _bars(
    axes: "Axes", rows: Sequence[Row], title: str, value: Callable[[Row], float], text: Callable[[Row], str]
) -> None:
    """One bar for each method, from the top in the order of the table, with its numbers behind it."""
    places = range(len(rows))
    values = [value(row) for row in rows]
    axes.barh(places, values, color=[_colour(row.method) for row in rows], height=0.72)
    axes.set_yticks(places, [row.method for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(values) * 1.35 or 1)
    axes.set_title(title, loc="left", size=10, color=INK, weight="bold")
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, row, length in zip(places, rows, values, strict=True):
        axes.text(length, place, " " + text(row), va="center", size=8.5, color=INK)


def _limit(axes: "Axes", rows: Sequence[Row]) -> None:
    """A line at the most error that the target allows."""
    for row in rows:
        if row.method == CORE_FAST:
            axes.axvline(MOST_ERROR * row.error, color=INK, linewidth=1, linestyle=":")
            axes.text(MOST_ERROR * row.error, -0.5, " target: left of this", size=8, color=INK, va="center")


def _colour(method: str) -> str:
    if method in JUDGED:
        return JUDGED_COLOUR
    if method.startswith("core"):
        return CORE
    return OURS if method.startswith("ours") else PLAIN


def main(path: str = "") -> None:
    """Draw a precision.json again, beside itself; without a path the kept results."""
    file = Path(path) if path else Path(__file__).parent / "results" / "precision.json"
    if not file.is_file():
        raise SystemExit(f"there is no {file} to draw: run `python -m nox -s bench -- precision` first")
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    draw([Row(**row) for row in rows], file.with_suffix(".png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
