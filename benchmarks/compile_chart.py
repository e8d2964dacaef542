"""Draws compile.json: how long a user waits at the start and behind each change, and for a step."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compile_targets import FIRST
from .plot import DPI, FAINT, INK, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"eager": "#999999", "core": "#009E73", "ours": "#0072B2"}
LEGEND = {"no node": "eager", "TorchCompileModel": "core", "Compile Model+": "ours"}
BAR = 0.8  # of the place of one row

Rows = list[tuple[str, dict[str, float]]]


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the chart to `path` (PNG, 1400 pixels wide)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def seconds(part: str, name: str) -> dict[str, float]:
        return {method: found[name]["seconds"] for method, found in data[part].items()}

    start = [("nothing on disk", seconds("cold", FIRST)), ("second start", seconds("warm", FIRST))]
    start.append(("only the kept file", seconds("shipped", FIRST)))
    changes = [(name, seconds("cold", name)) for name in data["cold"]["ours"] if name != FIRST]
    figure = Figure(figsize=(WIDTH, 5.0), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 1]})
    figure.subplots_adjust(left=0.095, right=0.965, top=0.78, bottom=0.06, wspace=0.62)
    figure.text(0.02, 0.93, "Compiling a model: what the user waits for", size=14, color=INK)
    note = "Tiny trained FLUX of 12 blocks on one CPU thread. Each start is a fresh process. Shorter is better."
    figure.text(0.02, 0.885, note, size=9.5, color=INK)
    for place, (label, method) in zip((0.70, 0.76, 0.88), LEGEND.items(), strict=True):
        figure.text(place, 0.93, label, size=10, color=COLOURS[method], weight="bold")
    _panel(panels[0], "First run, seconds above a plain run", start, "{:.1f} s")
    _panel(panels[1], "First run behind a change, seconds more", changes, "{:.1f} s", least=1.0)
    _panel(panels[2], "One step, milliseconds", list(data["steady"].items()), "{:.1f} ms")
    figure.savefig(path)


def _panel(axes: "Axes", title: str, rows: Rows, text: str, least: float = 0.0) -> None:
    """Bars in groups, each with its number, on an axis that reaches to `least` or further."""
    for row, (_, values) in enumerate(rows):
        shown = [method for method in COLOURS if method in values]
        size = BAR / max(len(shown), 2)
        for index, method in enumerate(shown):
            place = row + (index - (len(shown) - 1) / 2) * size
            axes.barh(place, values[method], height=size * 0.9, color=COLOURS[method])
            axes.text(values[method], place, " " + text.format(values[method]), va="center", size=8.5, color=INK)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(least, *(value for _, values in rows for value in values.values())))
    axes.set_title(title, loc="left", size=10.5, color=INK, weight="bold")
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
