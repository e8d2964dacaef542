"""Here or there, with the numbers that decide it."""

import pytest
from velocity_nodes.remote.client.history import History, Work
from velocity_nodes.remote.client.route import Decision, decide, queue_seconds

WORK = Work("flux.safetensors", 20, 15_625)  # a latent of 1 MB


def measured(folder, local: float | None = 60.0, remote: float | None = 10.0, overhead: float | None = 0.5) -> History:
    """1 MB/s up, 2 MB/s down, 40 s to load."""
    history = History(folder)
    if overhead is not None:
        history.record_wire("studio", 1e6, 2e6, overhead)
    if remote is not None:
        history.record_seconds("studio", WORK, remote)
    if local is not None:
        history.record_seconds("local", WORK, local)
    history.record_load("studio", WORK.model, 40.0)
    return history


def choose(history: History, **changes) -> Decision:
    usual = {"upload_bytes": 2_000_000, "queue_seconds": 0.0, "warm": True, "can_run_here": True}
    return decide(history, "studio", WORK, **usual | changes)


def test_both_numbers_and_their_parts_are_told(tmp_path):
    decision = choose(measured(tmp_path), queue_seconds=7.0, warm=False)
    # 7 queue + 40 cold + (0.5 + 2 MB up at 1 MB/s + 1 MB down at 2 MB/s) wire + 10
    parts = "(queue 7.0, cold start 40.0, wire 3.0, denoising 10.0)"
    assert decision == Decision("local", f"remote 60.0 s {parts}, local 60.0 s")


@pytest.mark.parametrize(
    ("local", "changes", "route"),
    [
        (60.0, {}, "remote"),  # 13 s
        (13.5, {}, "remote"),
        (12.5, {}, "local"),
        (60.0, {"queue_seconds": 46.5}, "remote"),
        (60.0, {"queue_seconds": 47.5}, "local"),
        (60.0, {"warm": False}, "remote"),  # 53 s
        (52.0, {"warm": False}, "local"),
        (60.0, {"upload_bytes": 48_000_000}, "remote"),  # 59 s
        (60.0, {"upload_bytes": 50_000_000}, "local"),  # 61 s
    ],
)
def test_what_is_done_sooner(tmp_path, local, changes, route):
    assert choose(measured(tmp_path, local), **changes).route == route


def test_a_tiny_job_stays_here(tmp_path):
    decision = choose(measured(tmp_path, local=0.4, remote=0.1), upload_bytes=1000)
    assert decision.route == "local"
    assert "remote 1.1 s" in decision.reason
    assert "local 0.4 s" in decision.reason


@pytest.mark.parametrize("unknown", ["remote", "overhead"])
def test_an_endpoint_is_measured_once(tmp_path, unknown):
    decision = choose(measured(tmp_path, **{unknown: None}))
    assert decision == Decision("remote", "measuring the endpoint once with this model")


def test_this_machine_is_measured_only_where_that_cannot_take_long(tmp_path):
    unmeasured = measured(tmp_path, local=None)
    assert choose(unmeasured).route == "remote"
    assert "never measured" in choose(unmeasured).reason
    mostly_wire = choose(unmeasured, upload_bytes=9_000_000)  # 10 s of 20
    assert mostly_wire.route == "remote"
    mostly_wire = choose(unmeasured, upload_bytes=9_100_000)
    assert mostly_wire.route == "local"
    assert "measuring this machine once" in mostly_wire.reason


def test_a_model_that_is_not_here_can_only_run_there(tmp_path):
    decision = choose(measured(tmp_path, local=0.01), can_run_here=False)
    assert decision == Decision("remote", "remote 13.0 s; the model is not on this machine")


@pytest.mark.parametrize(
    ("capabilities", "health", "seconds"),
    [
        ({}, {}, 0.0),
        ({"seconds_per_job": None}, {"queued": 5}, 0.0),
        ({"seconds_per_job": 10.0}, {"queued": 0, "running": 0, "workers": [{"state": "ready"}]}, 0.0),
        ({"seconds_per_job": 10.0}, {"queued": 3, "running": 1, "workers": [{"state": "busy"}]}, 40.0),
        ({"seconds_per_job": 10.0}, {"queued": 3, "running": 1, "workers": [{"state": "busy"}] * 2}, 20.0),
        ({"seconds_per_job": 10.0}, {"queued": 1, "running": 0, "workers": [{"state": "failed"}]}, 10.0),
    ],
)
def test_the_queue_is_shared_by_the_workers(capabilities, health, seconds):
    assert queue_seconds(capabilities, health) == seconds
