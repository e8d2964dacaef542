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
LEGEND = {"plain": PLAIN, "ComfyUI's own": CORE, "ours": OURS, "ours together": TOGETHER}
PUBLISHED = "published (sglang)"
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
    if "flux" in groups and "H200" in data["environment"]["device"]:
        groups["flux"] += _published(data["marks_h200"])
    sizes = [len(cases) for cases in groups.values()]
    height = sum(sizes) * BAR + HEAD * (len(sizes) + 0.6)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False, gridspec_kw={"height_ratios": sizes})[:, 0]
    top, bottom = 1 - 1.2 / height, 0.5 / height
    figure.subplots_adjust(left=0.27, right=0.86, top=top, bottom=bottom, hspace=HEAD * len(sizes) / (sum(sizes) * BAR))
    facts = data["environment"]
    figure.text(0.02, 1 - 0.4 / height, f"Seconds for one whole sampling run on {facts['device']}", size=14, color=INK)
    versions = f"ComfyUI {facts['comfyui']}, torch {facts['torch']}, {facts['attention']}"
    note = f"Random weights: times and skipped steps, nothing of quality. {versions}."
    figure.text(0.02, 1 - 0.65 / height, note, size=9.5, color=INK)
    for place, (label, colour) in zip((0.66, 0.71, 0.82, 0.87), LEGEND.items(), strict=True):
        figure.text(place, 1 - 0.4 / height, label, size=9.5, color=colour, weight="bold")
    for axes, (name, cases) in zip(panels, groups.items(), strict=True):
        _panel(axes, data["titles"].get(name, name), cases)
    figure.savefig(path)


def _panel(axes: "Axes", title: str, cases: list[dict[str, Any]]) -> None:
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
        words += [f"{case['full']} of {case['full'] + case['skipped']} steps full"] if case["skipped"] else []
        words += ["broken"] if case["error"] else []
        axes.text(case["seconds"], place, "  " + ", ".join(words), va="center", size=8.5, color=INK, clip_on=False)


def _published(marks: dict[str, float]) -> list[dict[str, Any]]:
    """Rows like cases of what others measured on the same kind of card."""
    nothing = {"full": 0, "skipped": 0, "error": None}
    return [{"case": f"{PUBLISHED}, {label}", "seconds": seconds, **nothing} for label, seconds in marks.items()]


def _colour(name: str) -> str:
    if name.startswith(PUBLISHED):
        return FAINT
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
