"""What a run says about itself, by arithmetic on a few steps."""

import logging

import pytest
from comfy_execution.utils import CurrentNodeContext
from velocity_nodes.acceleration.report.telemetry import RunLog, RunRecord, StepRecord, full_prices


def run_of(*calls: tuple[float, bool], **fields) -> RunRecord:
    steps = [StepRecord(index, 1.0, seconds, full) for index, (seconds, full) in enumerate(calls)]
    total = sum(seconds for seconds, _ in calls)
    return RunRecord("Velocity Forecast", "Flux", "cpu", steps=steps, **{"seconds": total, "completed": True} | fields)


def test_counts_and_saving():
    run = run_of((1.0, True), (1.2, True), (0.1, False), (0.2, False), (1.1, True))
    assert (run.full, run.skipped) == (3, 2)
    assert run.seconds_saved == pytest.approx(2 * 1.1 - 0.3)
    assert run.speedup == pytest.approx((3.6 + 1.9) / 3.6)


def test_a_slow_first_call_does_not_inflate_the_saving():
    run = run_of((30.0, True), (1.0, True), (0.0, False))
    assert run.seconds_saved == 1.0


def test_skipping_that_cost_more_counts_negative():
    run = run_of((1.0, True), (1.5, False))
    assert run.seconds_saved == -0.5
    assert run.speedup == pytest.approx(2.0 / 2.5)


ONE, TWO = ((1.0, 0),), ((2.0, 0),)


@pytest.mark.parametrize(
    ("calls", "prices"),
    [  # (seconds, full, evaluations)
        ([(2.0, True, TWO), (0.0, False, TWO), (1.1, True, ONE), (0.0, False, ONE)], [2.0, 2.0, 1.1, 1.1]),
        ([(2.0, True, TWO), (0.0, False, ONE), (0.0, False, ONE + TWO)], [2.0, 1.0, 3.0]),  # none like them
        ([(1.0, True, ONE), (2.0, True, ((1.0, 1),)), (0.0, False, ((1.0, 1),))], [1.0, 2.0, 2.0]),  # a ControlNet
    ],
)
def test_a_skipped_call_is_priced_by_full_calls_like_it(calls: list[tuple], prices: list[float]):
    steps = [StepRecord(0, 1.0, seconds, full, evaluations=asked) for seconds, full, asked in calls]
    assert full_prices(steps) == pytest.approx(prices)


def test_of_full_calls_alike_the_nearest_count():
    """What costs less from some step on without being counted, as a patch that ends."""
    steps = [*run_of(*[(3.0, True)] * 4, (0.0, False)).steps, *run_of((0.0, False), *[(1.0, True)] * 4).steps]
    assert full_prices(steps)[4:6] == [3.0, 1.0]


@pytest.mark.parametrize("run", [run_of(), run_of((0.1, False)), run_of((0.0, True), (0.0, False))])
def test_nothing_measured_saves_nothing(run):
    assert (run.seconds_saved, run.speedup) == (0.0, 1.0)


def test_summary_says_totals_and_interruption():
    run = run_of((1.0, True), (0.25, False))
    line = run.summary()
    assert line == "Velocity Forecast: 2 model calls, 1 full, 1 skipped, about 0.75 s saved of 2.00 s"
    run.completed = False
    assert run.summary() == line + " (interrupted)"


def test_the_log_is_bounded_in_order_and_logs_a_line(caplog):
    log = RunLog(keep=2)
    with caplog.at_level(logging.INFO, logger="velocity"):
        for planned in range(3):
            log.add(run_of((1.0, True), planned_steps=planned))
    assert [run.planned_steps for run in log] == [1, 2]
    assert len(log) == 2
    assert len([record for record in caplog.records if "1 model calls" in record.message]) == 3


def test_latest_keeps_to_the_newest_queued_prompt():
    log = RunLog()
    assert log.latest() == []
    nodes = [str(node) for node in range(5)]
    for prompt, node in [("old", "3"), *(("new", node) for node in nodes)]:
        with CurrentNodeContext(prompt, node):
            log.add(run_of((1.0, True)))
    assert [(run.prompt, run.node) for run in log.latest()] == [("new", node) for node in nodes]


def test_latest_outside_a_server_returns_the_last_few():
    log = RunLog()
    for planned in range(5):
        log.add(run_of((1.0, True), planned_steps=planned))
    assert [run.planned_steps for run in log.latest()] == [2, 3, 4]
