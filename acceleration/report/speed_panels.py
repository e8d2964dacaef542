"""The parts that the speed chart is made of: time bars, decision dots, pictures. Each draws into a given figure.

Lengths are design pixels from the top left corner of a chart `WIDTH` wide. Every style is set on the artist itself,
so what other packs do to matplotlib's defaults does not show. Blue and orange differ for every kind of colour vision.
"""

import math
from typing import TYPE_CHECKING

import torch

from .speed_text import duration, shorten, time_unit
from .telemetry import RunRecord, StepRecord, full_prices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUND, PANEL, LINE = "#191c22", "#20242c", "#39404b"
TEXT, MUTED = "#e9edf2", "#98a2b0"
FULL, SKIPPED, SAVED = "#5aa2dc", "#f2a33a", "#4a4030"
WIDTH = 1024
FONT = "DejaVu Sans"  # comes with matplotlib
PIXEL = 72 / 128  # points of one design pixel: figures are laid out at 128 dots an inch
CLIP = 3.0  # bars above this many of the dearest price (warm-up) are cut off and labelled
LOG_RANGE = 30.0  # metrics that span more than this factor get a logarithmic scale
WIDEST_BAR = 56  # design pixels


def text(figure: "Figure", x: float, y: float, words: str, size: float, color: str = TEXT, **style) -> None:
    """Write one line centred on height `y`, `size` pixels high, cut in its middle where it would leave the chart."""
    at = (x / WIDTH, 1 - y / (figure.get_figheight() * 128))
    options = {"fontsize": size * PIXEL, "color": color, "va": "center", "family": FONT, "parse_math": False}
    artist = figure.text(*at, words, **options | style)
    room = (WIDTH - 28 - x) / WIDTH * figure.bbox.width
    if style.get("ha", "left") == "left" and (needed := artist.get_window_extent().width) > room:
        artist.set_text(shorten(words, max(8, int(len(words) * room / needed) - 2)))


def axes(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Return an empty styled panel."""
    total = figure.get_figheight() * 128
    ax = figure.add_axes((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total), facecolor=PANEL)
    ax.grid(False)
    ax.tick_params(colors=MUTED, labelsize=11 * PIXEL, length=0, pad=6, labelfontfamily=FONT)
    ax.spines[:].set_visible(False)
    return ax


def call_axis(ax: "Axes", run: RunRecord, labelled: bool) -> float:
    """Set the x axis to one slot for each call (the missing ones of an interrupted run too); return the bar width."""
    from matplotlib.ticker import MaxNLocator

    slots = max(len(run.steps), 0 if run.completed else run.planned_steps, 1)
    ax.set_xlim(0.5, slots + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(14, integer=True, min_n_ticks=1))
    ax.tick_params(axis="x", labelbottom=labelled)
    return min(0.8, WIDEST_BAR * slots / 920)


def draw_bars(ax: "Axes", run: RunRecord, labelled: bool) -> str:
    """Draw the seconds of each call; return the name of the time unit used."""
    from matplotlib.ticker import MaxNLocator

    prices = full_prices(run.steps)
    ceiling = max(step.seconds for step in run.steps)
    if run.full:
        ceiling = min(ceiling, CLIP * max(prices)) or ceiling
    factor, unit = time_unit(ceiling)
    top = ceiling * factor * 1.12 or 1.0
    width = call_axis(ax, run, labelled)
    ax.set_ylim(0, top)
    ax.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    calls = list(enumerate(run.steps, start=1))
    saved = [call for call, step in calls if not step.full]
    ax.bar(saved, [prices[call - 1] * factor for call in saved], width, color=SAVED, linewidth=0)
    heights = [max(step.seconds * factor, 0.025 * top) for step in run.steps]  # a skipped call stays visible
    ax.bar([call for call, _ in calls], heights, width, color=[colour(step) for step in run.steps], linewidth=0)
    for call, step in [pair for pair in calls if pair[1].seconds > ceiling][:4]:
        where = {"xy": (call + width / 2, top * 0.93), "xytext": (4, 0), "textcoords": "offset points"}
        ax.annotate(duration(step.seconds), **where, va="center", color=TEXT, fontsize=11 * PIXEL, family=FONT)
    return unit


def colour(step: StepRecord) -> str:
    """Return the colour of a call."""
    return FULL if step.full else SKIPPED


def has_metric(run: RunRecord) -> bool:
    """Return whether any call of the run was decided by a metric."""
    return any(step.metric is not None for step in run.steps)


def draw_metric(ax: "Axes", run: RunRecord) -> bool:
    """Draw what was compared with its limit at each call, a cross where it was not finite; return if there was one."""
    decided = [(call, step) for call, step in enumerate(run.steps, start=1) if step.metric is not None]
    finite = [(call, step) for call, step in decided if math.isfinite(step.metric)]
    limits = [step.limit if step.limit is not None else math.nan for step in run.steps]
    values = [step.metric for _, step in finite] + [limit for limit in limits if math.isfinite(limit)]
    positive = [value for value in values if value > 0] or [1.0]
    floor, ceiling = min(positive), max(positive)
    if min(values, default=0) >= 0 and ceiling > LOG_RANGE * floor:
        ax.set_yscale("log")
        ax.minorticks_off()
        ax.yaxis.set_major_formatter("{x:g}")
        low, high = floor / 1.8, ceiling * 1.8
    else:
        low, high = min(-0.08 * ceiling, *values), ceiling * 1.2
    ax.set_ylim(low, high)
    call_axis(ax, run, labelled=True)
    ax.step(range(1, len(limits) + 1), limits, where="mid", color=TEXT, linewidth=1.1, linestyle=(0, (5, 3)))
    size = 26 if len(run.steps) <= 60 else 9
    style = {"linewidth": 0, "clip_on": False, "zorder": 3}
    heights = [max(step.metric, low) for _, step in finite]
    ax.scatter([call for call, _ in finite], heights, s=size, c=[colour(step) for _, step in finite], **style)
    strange = [call for call, step in decided if not math.isfinite(step.metric)]
    at_top = high / 1.15 if ax.get_yscale() == "log" else low + 0.94 * (high - low)
    ax.scatter(strange, [at_top] * len(strange), s=30, c=TEXT, marker="x", linewidth=1.3, zorder=4)
    return bool(strange)


def picture_size(images: torch.Tensor) -> tuple[float, float]:
    """Return (width, height) in design pixels of each of three thumbnails beside each other for images (B, H, W, C)."""
    height, width = images.shape[1:3]
    scale = min(312 / width, 400 / height)
    return width * scale, height * scale


def draw_pictures(figure: "Figure", reference: torch.Tensor, result: torch.Tensor, index: int, top: float) -> None:
    """Draw image `index` of both batches (B, H, W, C) and their amplified difference, with a caption above each."""
    one, other = reference[index].detach().float().cpu(), result[index].detach().float().cpu()
    difference = (one - other).abs().nan_to_num(nan=1.0)
    largest = float(difference.max())
    gain = 2 ** max(0, min(6, math.floor(math.log2(1 / largest)))) if largest else 1
    which = f", image {index + 1} of {len(result)} (the worst)" if len(result) > 1 else ""
    last = f"difference, {gain}x brighter" if largest else "no difference"
    width, height = picture_size(reference)
    captions = ("reference" + which, "result", last)
    for column, (image, caption) in enumerate(zip((one, other, difference * gain), captions, strict=True)):
        left = 28 + column * 328
        text(figure, left, top, caption, 12, MUTED)
        ax = axes(figure, left, top + 14, width, height)
        ax.set_xticks([])
        ax.set_yticks([])
        pixels = image.nan_to_num(nan=0.0).clamp(0, 1)[..., :3]
        pixels = pixels.expand(-1, -1, 3) if pixels.shape[-1] == 1 else pixels
        ax.imshow(pixels.numpy(), aspect="auto", interpolation="antialiased")
