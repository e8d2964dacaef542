"""Draws gpu.json: seconds of each case as a bar, one panel for each workload."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plot import DPI, FAINT, INK, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: the plain run, ComfyUI's own means, ours, all of ours together.
PLAIN, CORE, OURS, TOGETHER = "#999999", "#009E73", "#56B4E9", "#0072B2"
BAR, HEAD = 0.27, 1.1  # inches


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the chart of all measured cases to `path` (PNG); cases without a time are left out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = [case for case in data["cases"] if case["seconds"]]
    groups = {}
    for case in measured:
        groups.setdefault(case["workload"], []).append(case)
    if not groups:
        return
    sizes = [len(cases) for cases in groups.values()]
    height = sum(sizes) * BAR + HEAD * (len(sizes) + 0.6)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    top, bottom = 1 - 1.2 / height, 0.5 / height
    figure.subplots_adjust(left=0.27, right=0.86, top=top, bottom=bottom, hspace=HEAD * len(sizes) / (sum(sizes) * BAR))
    facts = data["environment"]
    figure.text(0.02, 1 - 0.4 / height, f"Seconds for one whole sampling run on {facts['device']}", size=14, color=INK)
    note = "Random weights: times and skipped steps, nothing of quality. Dotted lines: published for one H200."
    versions = f"ComfyUI {facts['comfyui']}, torch {facts['torch']}, {facts['attention']}"
    figure.text(0.02, 1 - 0.65 / height, f"{note} {versions}.", size=9.5, color=INK)
    for axes, (name, cases) in zip(panels, groups.items(), strict=True):
        shown = data["marks_h200"] if name == "flux" and "H200" in facts["device"] else {}
        _panel(axes, data["titles"].get(name, name), cases, shown)
    figure.savefig(path)


def _panel(axes: "Axes", title: str, cases: list[dict[str, Any]], marks: dict[str, float]) -> None:
    """Bars from the top in the order they were measured, each with seconds, times faster and calls."""
    eager = next((case["seconds"] for case in cases if case["case"] == "eager bf16"), None)
    places = range(len(cases))
    seconds = [case["seconds"] for case in cases]
    axes.barh(places, seconds, color=[_colour(case["case"]) for case in cases], height=0.72)
    axes.set_yticks(places, [case["case"] for case in cases])
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_xlim(0, max(seconds))
    axes.set_title(title, loc="left", size=11, color=INK, weight="bold")
    axes.tick_params(labelsize=8.5, colors=INK, length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, case in zip(places, cases, strict=True):
        words = [f"{case['seconds']:.2f} s"]
        words += [f"{eager / case['seconds']:.2f}x"] if eager and case["case"] != "eager bf16" else []
        words += [f"{case['full']} of {case['full'] + case['skipped']} calls"] if case["skipped"] else []
        words += ["broken"] if case["error"] else []
        axes.text(case["seconds"], place, "  " + ", ".join(words), va="center", size=8.5, color=INK, clip_on=False)
    for label, value in marks.items():
        axes.axvline(value, color=INK, linewidth=0.9, linestyle=":")
        axes.text(
            value, len(cases) - 0.42, f"{label} {value}", size=7.5, color=INK, ha="right", va="bottom", rotation=90
        )


def _colour(name: str) -> str:
    if name == "eager bf16":
        return PLAIN
    if "core" in name:
        return CORE
    return TOGETHER if "fp8" in name and "compile" in name else OURS


def main(path: str) -> None:
    """Draw a gpu.json again, beside itself."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    draw(data, Path(path).with_suffix(".png"))


if __name__ == "__main__":
    main(*sys.argv[1:])
