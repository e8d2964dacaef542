"""Draws offload.json: what a job waits for, how many jobs a second, what the wire carries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .offload_targets import ADDED_MS, FIRST_EVENT_MS, MB, PREVIEW_MS
from .plot import DPI, FAINT, INK, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, OTHER, LEAST, LIMIT = "#0072B2", "#999999", "#009E73", "#D55E00"
BAR = 0.7  # of the place of one row
COVER = {"facecolor": "white", "edgecolor": "none", "pad": 0}  # so that a number is readable on a line
SHOWN = ("FLUX.1, T5", "Wan, umt5, 60 of 512 tokens", "Qwen-Image", "FLUX.2 klein 9B", "FLUX.1 1024 x 1024")


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the chart to `path` (PNG, 1400 pixels wide)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.8), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.12, right=0.97, top=0.72, bottom=0.07, wspace=0.7)
    figure.text(0.02, 0.92, "Offload on loopback: what the endpoint costs", size=14, color=INK)
    note = "Tiny trained FLUX, one CPU worker. Lines are the targets; bars in the first panel are medians."
    figure.text(0.02, 0.86, note, size=9.5, color=INK)
    _delays(panels[0], data)
    _throughput(panels[1], data)
    _wire(panels[2], data)
    for axes in panels:
        axes.tick_params(labelsize=8.5, colors=INK, length=0)
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
    figure.savefig(path)


def _delays(axes: "Axes", data: dict[str, Any]) -> None:
    rows = [
        ("added to a job", data["single"]["added"]["median"], ADDED_MS),
        ("submit to first event", data["single"]["first_event"]["median"], FIRST_EVENT_MS),
        ("first preview", data["previews"]["first"]["median"], PREVIEW_MS),
    ]
    for row, (_, _, target) in enumerate(rows):
        axes.plot([target, target], [row - 0.45, row + 0.45], color=LIMIT, linewidth=2)
    _bars(axes, [(label, value, OURS) for label, value, _ in rows], "{:.1f} ms")
    axes.set_xlim(0, 1.15 * max(max(row[1:]) for row in rows))
    axes.set_title("Delays, milliseconds", loc="left", size=10.5, color=INK, weight="bold")


def _throughput(axes: "Axes", data: dict[str, Any]) -> None:
    queue, batching = data["queue"], data["batching"]

    def speed(part: dict[str, Any], side: str) -> float:
        return part["jobs"] * len(part["seconds"][side]) / sum(part["seconds"][side])

    rows = [
        (f"{queue['jobs']} jobs, worker alone", speed(queue, "straight"), OTHER),
        (f"{queue['jobs']} jobs, offloaded", speed(queue, "offloaded"), OURS),
        (f"{batching['jobs']} jobs, offloaded", speed(batching, "exact"), OURS),
        (f"{batching['jobs']} jobs, batched", speed(batching, "batched"), OURS),
    ]
    _bars(axes, rows, "{:.2f}")
    axes.set_xlim(0, 1.2 * max(value for _, value, _ in rows))
    axes.set_title("Jobs per second", loc="left", size=10.5, color=INK, weight="bold")


def _wire(axes: "Axes", data: dict[str, Any]) -> None:
    found = {row["name"]: row for row in data["wire"]}
    for row, name in enumerate(SHOWN):
        for index, (part, colour) in enumerate((("fp32", OTHER), ("sent", OURS), ("least", LEAST))):
            place = row + (index - 1) * BAR / 3
            axes.barh(place, found[name][part] / MB, height=BAR / 3 * 0.9, color=colour)
    axes.set_yticks(range(len(SHOWN)), SHOWN)
    axes.set_ylim(len(SHOWN) - 0.5, -0.5)
    axes.set_title("Megabytes", loc="left", size=10.5, color=INK, weight="bold")
    for place, (label, colour) in zip(
        (0.42, 0.68, 0.84), (("as fp32", OTHER), ("sent", OURS), ("least", LEAST)), strict=True
    ):
        axes.text(place, 1.035, label, transform=axes.transAxes, size=9, color=colour, weight="bold")


def _bars(axes: "Axes", rows: list[tuple[str, float, str]], text: str) -> None:
    """Bars with their numbers."""
    for row, (_, value, colour) in enumerate(rows):
        axes.barh(row, value, height=BAR * 0.8, color=colour)
        axes.text(max(value, 0.0), row, " " + text.format(value), va="center", size=8.5, color=INK, bbox=COVER)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
