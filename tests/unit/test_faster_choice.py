"""Which of two ways is faster: what is measured, what counts, and that sizes are judged apart."""

import pytest
from velocity_nodes.acceleration.compiling.faster_choice import SAMPLES, FasterChoice

SHAPE, OTHER = (1, 16, 16, 16), (2, 16, 16, 16)


def run(choice: FasterChoice, seconds: dict[bool, float], calls: int, shape=SHAPE, blocks: int = 12) -> list[bool]:
    """Make calls that take `seconds` compiled and not; return which way each was told to go."""
    ways = []
    for _ in range(calls):
        ways.append(choice.compiled(shape))
        if not choice.decided(shape):
            choice.note(shape, ways[-1], blocks, seconds[ways[-1]])
    return ways


@pytest.mark.parametrize("winner", [True, False])
def test_keeps_the_faster(winner: bool) -> None:
    choice, calls = FasterChoice(), 1 + 2 * SAMPLES
    ways = run(choice, {winner: 1.0, not winner: 1.1}, calls)
    assert ways[0], "the first call compiles"
    assert ways[1:].count(True) == ways[1:].count(False) == SAMPLES
    assert choice.decided(SHAPE)
    assert run(choice, {}, 20) == [winner] * 20


def test_the_call_that_compiles_is_not_timed() -> None:
    choice = FasterChoice()
    choice.note(SHAPE, choice.compiled(SHAPE), 12, 60.0)
    run(choice, {True: 1.0, False: 1.1}, 2 * SAMPLES)
    assert choice.compiled(SHAPE)


def test_one_slow_call_decides_nothing() -> None:
    choice = FasterChoice()
    run(choice, {True: 1.0, False: 1.1}, 1)
    choice.note(SHAPE, True, 12, 30.0)
    run(choice, {True: 1.0, False: 1.1}, 2 * SAMPLES - 1)
    assert choice.decided(SHAPE) and choice.compiled(SHAPE)


def test_calls_that_a_cache_cut_short_tell_nothing() -> None:
    choice = FasterChoice()
    run(choice, {True: 1.0, False: 1.1}, 2)
    for _ in range(20):
        choice.note(SHAPE, choice.compiled(SHAPE), 1, 0.01)
    assert not choice.decided(SHAPE)
    run(choice, {True: 1.0, False: 1.1}, 2 * SAMPLES)
    assert choice.decided(SHAPE) and choice.compiled(SHAPE)


def test_a_longer_call_than_all_before_starts_anew() -> None:
    choice = FasterChoice()
    run(choice, {True: 0.02, False: 0.01}, 4, blocks=1)
    ways = run(choice, {True: 1.0, False: 1.1}, 2 * SAMPLES)
    assert ways.count(True) == ways.count(False) == SAMPLES
    assert choice.compiled(SHAPE)


def test_sizes_are_judged_apart() -> None:
    choice = FasterChoice()
    run(choice, {True: 1.0, False: 0.9}, 1 + 2 * SAMPLES)
    assert not choice.decided(OTHER)
    run(choice, {True: 1.0, False: 1.1}, 1 + 2 * SAMPLES, shape=OTHER)
    assert choice.compiled(OTHER) and not choice.compiled(SHAPE)
