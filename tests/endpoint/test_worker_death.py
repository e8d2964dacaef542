"""Workers that are killed, hang, die with the endpoint or never start: the job runs again once, then it fails."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from velocity_nodes.remote.endpoint.workers.worker import Worker
from velocity_nodes.remote.endpoint.workers.worker_slot import MAX_FAILED_STARTS
from worker_stack import Stack, tiny_job

LONG = 10_000  # steps, the most that KSampler takes: minutes


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"), stall_seconds=4.0)
    yield stack.until_ready()
    stack.stop()


def test_a_killed_worker_is_started_again_and_its_job_too(stack):
    stack.until_ready()
    job = stack.submit(stack.job(*tiny_job(seed=1, steps=150)))
    waiting = stack.submit(stack.job(*tiny_job(seed=2)))
    stack.follow(job, until=("step",))
    stack.slot.worker.process.kill()
    events = stack.follow(job)
    assert events[-1][0] == "done"
    assert [data["attempt"] for kind, data in events if kind == "running"] == [1, 2]
    assert any("ended with code -9" in data["message"] for kind, data in events if kind == "warning")
    stack.wait(waiting)
    attempts = [data["attempt"] for kind, data in stack.follow(waiting) if kind == "running"]
    assert attempts == [1], "what only waited at the dead worker has lost no attempt"


def test_a_job_that_kills_its_worker_twice_fails_and_the_operator_sees_why(stack, caplog):
    stack.until_ready()
    job = stack.submit(stack.job(*tiny_job(seed=3, steps=LONG)))
    stack.follow(job, until=("step",))
    stack.slot.worker.process.kill()
    stack.until(lambda: job.attempts == 2 and stack.slot.runs and stack.slot.runs[0].value > 0)
    stack.slot.worker.process.kill()
    kind, error = stack.follow(job)[-1]
    assert (kind, error["code"]) == ("failed", "worker_failed")
    assert "ended with code -9" in error["message"] and error["next"]
    assert "got prompt" not in str(stack.follow(job)), "what the worker prints may be about somebody else's job"
    assert "got prompt" in caplog.text and job.id in caplog.text
    assert stack.call_now(lambda: stack.journal.get(job.id)).attempts == 2


@pytest.mark.skipif(os.name == "nt", reason="stops a process with a signal")
def test_a_worker_that_hangs_is_killed_and_the_job_runs_again(stack):
    stack.until_ready()
    job = stack.submit(stack.job(*tiny_job(seed=4, steps=150)))
    stack.follow(job, until=("step",))
    stack.slot.worker.process.send_signal(signal.SIGSTOP)
    events = stack.follow(job)
    assert events[-1][0] == "done"
    assert any("did nothing for 4 s" in data["message"] for kind, data in events if kind == "warning")


def test_a_deadline_ends_the_job_and_frees_the_worker(stack):
    stack.until_ready()
    job = stack.submit(stack.job(*tiny_job(seed=5, steps=LONG), deadline_seconds=1))
    kind, error = stack.follow(job)[-1]
    assert (kind, error["code"]) == ("failed", "deadline") and "1 s" in error["message"]
    stack.until(lambda: stack.slot.state == "ready")


def test_the_worker_ends_when_its_endpoint_is_killed():
    """The other end of the worker's standard input closes with the endpoint, however that ends."""
    watchdog = str(Path(__file__).parents[2] / "remote" / "worker" / "watchdog.py")
    code = "import runpy, sys, time; runpy.run_path(sys.argv[1])['exit_with_endpoint'](); time.sleep(600)"
    endpoint_code = (
        "import subprocess, sys, time; "
        "p = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], stdin=subprocess.PIPE); "
        "print(p.pid, flush=True); time.sleep(600)"
    )
    endpoint = subprocess.Popen([sys.executable, "-c", endpoint_code, code, watchdog], stdout=subprocess.PIPE)
    worker = int(endpoint.stdout.readline())
    time.sleep(1.0)
    assert _alive(worker)
    endpoint.kill()
    endpoint.wait()
    end = time.monotonic() + 60
    while _alive(worker):
        assert time.monotonic() < end, "the worker is an orphan"
        time.sleep(0.05)


def test_what_never_starts_is_given_up_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("velocity_nodes.remote.endpoint.workers.worker_slot.BACKOFF_SECONDS", 0.01)
    stack = Stack(tmp_path, more_arguments=("--no-such-option",))
    try:
        job = stack.submit(stack.job(*tiny_job()))
        kind, error = stack.follow(job)[-1]
        assert (kind, error["code"]) == ("failed", "worker_failed")
        assert "no worker starts" in error["message"] and "--no-such-option" in error["message"]
        assert stack.call_now(stack.scheduler.health)["workers"] == [{"state": "failed"}]
        late = stack.submit(stack.job(*tiny_job()))
        assert stack.follow(late)[-1][1]["code"] == "worker_failed"
    finally:
        stack.stop()


def test_a_machine_that_is_short_of_files_is_no_reason_to_give_up(tmp_path, monkeypatch):
    """It was, for good: at an attack on the endpoint's connections."""
    monkeypatch.setattr("velocity_nodes.remote.endpoint.workers.worker_slot.BACKOFF_SECONDS", 0.001)
    start, failed = Worker.start, []

    async def short_of_files(self):
        if len(failed) < 2 * MAX_FAILED_STARTS:
            failed.append(OSError(errno.EMFILE, "Too many open files"))
            raise failed[-1]
        return await start(self)

    monkeypatch.setattr(Worker, "start", short_of_files)
    stack = Stack(tmp_path)
    try:
        stack.until_ready()
        assert len(failed) == 2 * MAX_FAILED_STARTS
        assert stack.follow(stack.submit(stack.job(*tiny_job())))[-1][0] == "done"
    finally:
        stack.stop()


def _alive(pid: int) -> bool:
    try:
        return "Z" not in open(f"/proc/{pid}/stat").read().split(")")[1][:3]
    except OSError:
        return False
