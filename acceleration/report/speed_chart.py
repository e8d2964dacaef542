"""The speed report as a picture: totals, seconds per model call, what decided, and the pictures compared.

Drawn with matplotlib's object interface only: no pyplot, no backend switch, no global setting.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .quality import Quality, compare
from .speed_panels import (
    FONT,
    FULL,
    GROUND,
    LINE,
    MUTED,
    PIXEL,
    SAVED,
    SKIPPED,
    TEXT,
    WIDTH,
    axes,
    draw_bars,
    draw_metric,
    draw_pictures,
    has_metric,
    picture_size,
    text,
)
from .speed_text import details, headline, quality_words, require_runs, shorten
from .telemetry import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHOLE = 3  # runs that are drawn with their calls; of those before there is the headline
# Design pixels: margins, then the heights of a run's parts.
LEFT, RIGHT = 76, 28
HEADER, BARS, METRIC, TITLE, FOOT, LINE_HEIGHT = 82, 168, 96, 34, 46, 30


def draw_speed_chart(
    runs: Sequence[RunRecord],
    quality: Quality | None = None,
    reference: torch.Tensor | None = None,
    result: torch.Tensor | None = None,
    width: int = WIDTH,
) -> torch.Tensor:
    """Return the chart of `runs`, newest last, as a ComfyUI image (1, H, `width`, 3), floats 0..1.

    The last three are drawn with their calls, of each before there is one line.
    `reference` and `result` are images (B, H, W, C) of one shape, shown with their difference; their `quality` is
    measured where it is not given. Raises `ValueError` without runs, for one image without the other, or for shapes
    that differ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    require_runs(runs)
    quality = measure(reference, result) if quality is None else quality
    before, shown = list(runs)[:-WHOLE], list(runs)[-WHOLE:]
    listed = 18 + LINE_HEIGHT * len(before) + 14 if before else 0
    pictures = 26 + picture_size(reference)[1] + 18 if reference is not None else 0
    height = math.ceil(listed + sum(_height(run) for run in shown) + (52 if quality else 0) + pictures)
    # 128 dots an inch is a power of two: lengths in inches come out as whole pixels.
    figure = Figure(figsize=(WIDTH / 128, height / 128), dpi=128 * width / WIDTH, facecolor=GROUND)
    canvas = FigureCanvasAgg(figure)
    for place, run in enumerate(before):
        words = f"{place + 1}.  {headline(run)}" + (f"  \u00b7  sampler #{run.node}" if run.node else "")
        text(figure, 28, 18 + LINE_HEIGHT * (place + 0.5), words, 13, MUTED)
    top = float(listed)
    for run in shown:
        _draw_run(figure, run, top)
        top += _height(run)
    if quality:
        _rule(figure, top)
        text(figure, 28, top + 30, "   ".join(quality_words(quality)), 16, weight="bold")
        text(figure, WIDTH - RIGHT, top + 30, "against the reference", 12, MUTED, ha="right")
    if reference is not None:
        draw_pictures(figure, reference, result, quality.worst, top + 64)
    canvas.draw()
    columns, rows = canvas.get_width_height(physical=True)
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8).view(1, rows, columns, 4)
    return pixels[..., :3].float() / 255.0


def measure(reference: torch.Tensor | None, result: torch.Tensor | None) -> Quality | None:
    """Return the quality of `result`, None where neither image is given.

    Raises `ValueError` for one image without the other, or for shapes that differ.
    """
    if reference is None and result is None:
        return None
    if reference is None or result is None:
        there, missing = ("result", "reference") if reference is None else ("reference", "result")
        raise ValueError(f"the {there} image has nothing to be compared with: connect '{missing}' too, or neither")
    return compare(reference, result)


def _height(run: RunRecord) -> float:
    if not run.steps:
        return HEADER
    return HEADER + TITLE + BARS + FOOT + (TITLE + METRIC if has_metric(run) else 0)


def _rule(figure: "Figure", y: float) -> None:
    from matplotlib.lines import Line2D

    at = 1 - y / (figure.get_figheight() * 128)
    figure.add_artist(Line2D([28 / WIDTH, 1 - RIGHT / WIDTH], [at, at], color=LINE, linewidth=0.6))


def _draw_run(figure: "Figure", run: RunRecord, top: float) -> None:
    if top:
        _rule(figure, top)
    text(figure, 28, top + 34, headline(run), 21, weight="bold")
    text(figure, 28, top + 64, "  \u00b7  ".join(shorten(fact, 44) for fact in details(run)), 13, MUTED)
    if not run.steps:
        return
    top += HEADER + TITLE
    width = WIDTH - LEFT - RIGHT
    decided = has_metric(run)
    bars = axes(figure, LEFT, top, width, BARS)
    unit = draw_bars(bars, run, labelled=not decided)
    text(figure, LEFT, top - 13, f"Time per model call ({unit})", 12, TEXT)
    _legend(bars, run)
    top += BARS
    if decided:
        top += TITLE
        strange = draw_metric(axes(figure, LEFT, top, width, METRIC), run)
        words = "Decision: skip while the estimate (dot) is below its limit (dashed)"
        text(figure, LEFT, top - 13, words + (". A cross: not a finite number" if strange else ""), 12, TEXT)
        top += METRIC
    text(figure, LEFT - 8, top + 15, "call", 11, MUTED, ha="right")


def _legend(bars: "Axes", run: RunRecord) -> None:
    from matplotlib.patches import Patch

    entries = [(FULL, "full")] + [(SKIPPED, "skipped"), (SAVED, "saved")] * bool(run.skipped)
    bars.legend(
        handles=[Patch(color=color, label=name) for color, name in entries],
        prop={"family": FONT, "size": 12 * PIXEL},
        labelcolor=TEXT,
        ncols=len(entries),
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        borderpad=0.3,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.4,
        frameon=False,
    )
