"""The judge of the cache benchmark: interpolation between measured points, and no miss is hidden."""

import pytest

from benchmarks.targets import EASYCACHE, EASYCACHE_OURS, FEWER, FORECAST, SECOND_ORDER, Point, Verdict, judge, value_at

CURVE = [(1.0, 60.0), (2.0, 50.0), (3.0, 44.0)]


def point(family: str, speedup: float, mean: float, preset: str = "", sampler: str = "euler") -> Point:
    """Return a point whose worst picture is 5 dB below its mean; its step ratio must not matter."""
    return Point(sampler, "simple", family, "", preset, 9.0, speedup, 9.0, mean, mean - 5.0, 30.0)


def verdict(points: list[Point], name: str) -> Verdict:
    """Return the one verdict with this name."""
    (found,) = [verdict for verdict in judge(points, ("euler_ancestral",)) if verdict.name == name]
    return found


@pytest.mark.parametrize(("speedup", "wanted"), [(1.0, 60.0), (1.5, 55.0), (2.0, 50.0), (2.5, 47.0), (3.0, 44.0)])
def test_values_lie_on_the_line_between_neighbours(speedup: float, wanted: float) -> None:
    assert value_at(CURVE[::-1], speedup) == pytest.approx(wanted)


def test_a_speed_nobody_reached_has_no_value() -> None:
    assert value_at(CURVE, 3.01) is None
    assert value_at([], 1.0) is None


def test_slower_than_all_points_counts_as_the_slowest() -> None:
    assert value_at(CURVE[1:], 1.2) == 50.0


def test_two_points_of_one_speed_do_not_divide_by_zero() -> None:
    assert value_at([(2.0, 40.0), (2.0, 50.0), (3.0, 30.0)], 2.0) == 40.0


FAST = [point(FORECAST, 1.8, 56.0), point(FORECAST, 2.3, 50.0, "balanced"), point(FORECAST, 3.2, 43.0)]


def test_targets_are_met() -> None:
    assert verdict(FAST, f"{FORECAST}, euler, 2x wall clock").met
    assert verdict(FAST, f"{FORECAST}, euler, 3x wall clock").met
    balanced = verdict(FAST, f"{FORECAST}, euler, balanced")
    assert balanced.met and balanced.measured == "2.30x at 50.0 dB"


def test_the_worst_picture_is_judged_too() -> None:
    points = [*FAST[:2], Point("euler", "simple", FORECAST, "", "", 9.0, 3.2, 9.0, 43.0, 30.0, 30.0)]
    missed = verdict(points, f"{FORECAST}, euler, 3x wall clock")
    assert not missed.met and missed.line().startswith("MISSED")


def test_never_reaching_a_speed_is_a_miss() -> None:
    missed = verdict(FAST[:2], f"{FORECAST}, euler, 2.5x wall clock")
    assert missed.met is False and missed.measured == "never that fast"


@pytest.mark.parametrize(("speedup", "mean"), [(2.19, 50.0), (2.3, 44.9)])
def test_balanced_needs_both_speed_and_quality(speedup: float, mean: float) -> None:
    points = [point(FORECAST, speedup, mean, "balanced"), *FAST]
    assert [v.met for v in judge(points, ()) if v.name.endswith("balanced")] == [False, True]


def rivals(easy: float, ours: float, fewer: float, second: float) -> list[Point]:
    """Return rivals with the same PSNR at every speed."""
    means = {EASYCACHE: easy, EASYCACHE_OURS: ours, FEWER: fewer, SECOND_ORDER: second}
    return [point(family, speed, mean) for family, mean in means.items() for speed in (1.5, 3.5)]


def test_the_better_window_of_easycache_counts() -> None:
    # Ours at 2x, 2.5x and 3x: 53.6, 48.4 and 44.6 dB.
    for easy, ours in ((38.5, 30.0), (30.0, 38.5)):
        assert verdict(FAST + rivals(easy, ours, 0, 0), f"{FORECAST}, euler, over EasyCache").met
        assert not verdict(FAST + rivals(easy + 0.2, ours + 0.2, 0, 0), f"{FORECAST}, euler, over EasyCache").met


@pytest.mark.parametrize("family", [FEWER, SECOND_ORDER])
def test_fewer_steps_of_either_sampler_are_judged_apart(family: str) -> None:
    for mean, met in ((41.5, True), (41.7, False)):
        points = [*FAST, *rivals(0, 0, 0, 0), point(family, 2.9, mean), point(family, 3.1, mean)]
        assert verdict(points, f"{FORECAST}, euler, over {family}").met is met


def test_a_rival_that_is_never_that_fast_is_beaten() -> None:
    slow = [point(EASYCACHE, 1.5, 80.0)]
    assert verdict(FAST + slow, f"{FORECAST}, euler, over EasyCache").met


def test_ours_not_being_that_fast_is_a_miss_against_rivals() -> None:
    missed = verdict(FAST[:2] + rivals(1, 1, 1, 1), f"{FORECAST}, euler, over EasyCache")
    assert missed.met is False and "3x never reached" in missed.measured


def test_only_deterministic_samplers_have_margins() -> None:
    families = ((FORECAST, "balanced"), (EASYCACHE, ""))
    points = [point(f, 2.3, 50.0, preset, name) for f, preset in families for name in ("heun", "euler_ancestral")]
    names = [verdict.name for verdict in judge(points, ("euler_ancestral",))]
    assert any("heun" in name for name in names)
    assert not any("ancestral" in name for name in names)
