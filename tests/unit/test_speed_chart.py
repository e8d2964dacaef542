"""The chart by its pixels, the text by its words, and the node by its errors."""

import math

import pytest
import torch
from velocity_nodes.acceleration.report.quality import compare
from velocity_nodes.acceleration.report.speed_chart import draw_speed_chart
from velocity_nodes.acceleration.report.speed_panels import FULL, SAVED, SKIPPED, TEXT
from velocity_nodes.acceleration.report.speed_text import duration, shorten, speed_text
from velocity_nodes.acceleration.report.telemetry import RunRecord, StepRecord

BASELINE = 280  # a row just above the time axis, inside the bars' lowest pixels
PATTERN = "FFFFssFssFssFssFssFF"


def run_of(pattern: str = PATTERN, seconds: float = 0.1, metric=None, **fields) -> RunRecord:
    steps = [
        StepRecord(index, 1.0, seconds if kind == "F" else seconds / 50, kind == "F", *(metric or (None, None)))
        for index, kind in enumerate(pattern)
    ]
    total = sum(step.seconds for step in steps)
    base = {"technique": "Velocity Forecast", "model": "Flux", "device": "cpu", "planned_steps": len(pattern)}
    return RunRecord(**base | {"steps": steps, "seconds": total, "completed": True} | fields)


def is_colour(chart: torch.Tensor, colour: str) -> torch.Tensor:
    wanted = torch.tensor([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return ((chart[0] * 255 - wanted).abs() < 2.5).all(-1)  # (H, W)


def bars(chart: torch.Tensor, colour: str, row: int = BASELINE) -> int:
    """Count separate stretches of `colour` along one row of pixels."""
    line = is_colour(chart, colour)[row].int()
    return int((line.diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum())


def picture(batch: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [640, 777, 1024, 1500])
def test_the_chart_is_an_image_of_the_asked_width(width):
    chart = draw_speed_chart([run_of()], width=width)
    assert chart.shape[0] == 1 and chart.shape[2:] == (width, 3)
    assert chart.dtype == torch.float32 and chart.is_contiguous()
    assert chart.min() >= 0 and chart.max() <= 1
    assert 0.2 < chart.shape[1] / width < 0.6


@pytest.mark.parametrize("pattern", [PATTERN, "F", "FFFF", "FFs", "Fs" * 14])
def test_one_bar_for_each_call_in_its_colour(pattern):
    chart = draw_speed_chart([run_of(pattern)])
    assert bars(chart, FULL) == pattern.count("F")
    assert bars(chart, SKIPPED) == pattern.count("s")
    assert bars(chart, SAVED, BASELINE - 40) == pattern.count("s")


def test_bar_heights_are_proportional():
    steps = [StepRecord(0, 1.0, 0.4, True), StepRecord(1, 0.5, 0.2, True)]
    run = RunRecord("Velocity Forecast", "Flux", "cpu", steps=steps, seconds=0.6, completed=True)
    full = is_colour(draw_speed_chart([run]), FULL)[116:284]
    heights = [int(full[:, half].any(1).sum()) for half in (slice(0, 512), slice(512, None))]
    assert heights[0] == pytest.approx(2 * heights[1], abs=2) and heights[1] > 50


def test_a_slow_first_call_is_cut_so_that_the_others_stay_visible():
    run = run_of("FFFs")
    run.steps[0] = StepRecord(0, 1.0, 60.0, True)
    full = is_colour(draw_speed_chart([run]), FULL)
    assert full[BASELINE - 30].sum() > 2.5 * 50  # the ordinary bars reach this high


def test_two_hundred_calls_draw():
    chart = draw_speed_chart([run_of("Fs" * 100, metric=(0.01, 0.1))])
    assert chart.shape[2] == 1024
    assert is_colour(chart, FULL).any() and is_colour(chart, SKIPPED).any()


def test_the_decision_panel_appears_only_with_a_metric():
    plain, decided = draw_speed_chart([run_of()]), draw_speed_chart([run_of(metric=(0.05, 0.1))])
    assert decided.shape[1] > plain.shape[1] + 80
    bright = decided[0, 325:410, 100:990].mean(-1) > 0.7
    assert bright.any(1).sum() in (1, 2) and bright.any(0).sum() > 400  # the limit: one thin dashed line


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-9, 1e9])
@pytest.mark.parametrize("limit", [0.1, 0.0, None, math.nan])
def test_any_metric_draws(value, limit):
    run = run_of("FFss", metric=(value, limit))
    run.steps[1] = StepRecord(1, 0.5, 0.1, True, 0.05, 0.1)
    assert draw_speed_chart([run]).shape[2] == 1024


@pytest.mark.parametrize("seconds", [0.0, 3e-7, 0.02, 4.0, 600.0])
def test_any_duration_draws(seconds):
    assert bars(draw_speed_chart([run_of("FFF", seconds)]), FULL) == 3


def test_several_runs_are_stacked_newest_last():
    one = draw_speed_chart([run_of("F")])
    many = draw_speed_chart([run_of("FFFFFFF"), run_of("F"), run_of("FF")])
    height = one.shape[1]
    assert many.shape[1] == pytest.approx(3 * height, abs=2)
    assert [bars(many, FULL, BASELINE + index * height) for index in range(3)] == [7, 1, 2]


def test_of_many_runs_the_last_three_are_whole_and_the_others_a_line():
    whole = draw_speed_chart([run_of("F")] * 3)
    many = draw_speed_chart([run_of("FFFFFFF")] * 5 + [run_of("F")] * 3)
    added = many.shape[1] - whole.shape[1]
    assert torch.equal(many[:, added + 10 :], whole[:, 10:])
    lines = (many[0, :added].mean(-1) > 0.4).any(1).int()
    assert (lines.diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum() >= 5
    assert added < 200 and not is_colour(many[:, :added], FULL).any()


def test_an_interrupted_run_leaves_its_missing_calls_empty():
    chart = draw_speed_chart([run_of("FFFF", planned_steps=20, completed=False)])
    columns = is_colour(chart, FULL)[BASELINE].nonzero()
    assert columns.max() < 300


def test_an_interrupted_run_without_calls_draws_its_headline_only():
    chart = draw_speed_chart([run_of("", completed=False)])
    assert not is_colour(chart, FULL).any()
    assert chart.shape[1] < 120 and is_colour(chart, TEXT).any()


def test_long_names_stay_inside_the_chart():
    chart = draw_speed_chart([run_of(model="$\\frac{a}$_" * 40, technique="Technique " * 40)])
    ground = chart[0, 5, 5]
    assert torch.equal(chart[0, 50:80, -26:], ground.expand(30, 26, 3))


def test_pictures_and_their_difference_are_shown():
    reference = torch.zeros(2, 48, 64, 3)
    reference[..., 0] = 1.0
    result = reference.clone()
    result[1, ..., 2] = 0.25
    chart = draw_speed_chart([run_of()], reference=reference, result=result)
    assert chart.shape[1] > draw_speed_chart([run_of()]).shape[1] + 200
    for colour in ("#ff0000", "#ff0040", "#0000ff"):  # reference, worst result, difference times four
        assert is_colour(chart, colour).sum() > 40_000


@pytest.mark.parametrize("shape", [(1, 300, 40, 3), (1, 20, 400, 3), (1, 32, 32, 4), (1, 32, 32, 1)])
def test_any_picture_shape_draws(shape):
    image = torch.rand(shape)
    assert draw_speed_chart([run_of()], reference=image, result=image).shape[2] == 1024


def test_matplotlib_is_left_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    matplotlib.rcParams["axes.grid"] = True
    try:
        with_grid = draw_speed_chart([run_of()])
    finally:
        matplotlib.rcParams["axes.grid"] = before["axes.grid"]
    assert torch.equal(with_grid, draw_speed_chart([run_of()]))
    assert dict(matplotlib.rcParams) == before


def test_no_runs_says_how_to_connect():
    for report in (draw_speed_chart, speed_text):
        with pytest.raises(ValueError, match="Connect 'after' to the output of the sampler"):
            report([])


def test_one_image_without_the_other_says_which():
    with pytest.raises(ValueError, match="connect 'result' too"):
        draw_speed_chart([run_of()], reference=picture())
    with pytest.raises(ValueError, match="connect 'reference' too"):
        draw_speed_chart([run_of()], result=picture())


def test_the_text_says_the_totals():
    run = run_of("FFFFssFssF", 0.5, peak_memory=3 * 2**29, planned_steps=5, node="12")
    assert speed_text([run]).splitlines() == [
        "10 calls: 6 full, 4 skipped. 3.0 s, about 2.0 s saved (1.6x)",
        "Velocity Forecast, Flux, cpu, local, 5 steps planned, sampler #12, peak 1.5 GiB",
        "FFFFssFssF",
    ]


def test_the_text_of_odd_runs():
    assert speed_text([run_of("F")]).startswith("1 call: 1 full, 0 skipped. 100 ms\n")
    assert speed_text([run_of("FF", completed=False)]).startswith("2 calls: 2 full, 0 skipped. 200 ms. Interrupted\n")
    assert "interrupted before its first step" in speed_text([run_of("", completed=False)])
    slower = run_of("Fs")
    slower.steps[1] = StepRecord(1, 0.5, 0.15, False)
    assert "50 ms lost" in speed_text([slower])
    text = speed_text([run_of("F"), run_of("FF", model="Mod\u00e8le \u6a21")])
    assert text.isascii() and text.count("call") == 2


def test_the_text_says_the_quality():
    reference = picture(2)
    result = reference.clone()
    result[1] += 0.1
    text = speed_text([run_of()], compare(reference, result))
    assert "Against the reference: PSNR 23.0 dB (worst of 2: 20.0 dB), SSIM 0." in text
    assert "PSNR infinite (identical), SSIM 1.0000" in speed_text([run_of()], compare(picture(), picture()))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.00 us"), (2.5e-5, "25 us"), (0.0123, "12 ms"), (1.94, "1.9 s"), (85.2, "85 s"), (150, "2.5 min")],
)
def test_durations_choose_their_unit(seconds, words):
    assert duration(seconds) == words


def test_shorten_keeps_both_ends():
    assert shorten("abc", 8) == "abc"
    assert shorten("flux1-dev-fp8.safetensors", 15) == "flux1-...ensors"
