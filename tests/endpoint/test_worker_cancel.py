"""Cancelling: what runs stops at its next step, what waits never starts, and nobody else is hit."""

import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from worker_stack import Stack, tiny_job

LONG = 10_000  # steps, the most that KSampler takes: minutes, so that what waits for their end fails


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"))
    stack.until_ready().wait(stack.submit(stack.job(*tiny_job())))  # a first run takes its time for other things
    yield stack
    stack.stop()


def ends(stack) -> Counter:
    """Return how many prompts the worker has ended in which way."""
    history = stack.worker_client().get("/history")
    return Counter(entry["status"]["messages"][-1][0] for entry in history.values())


def test_a_running_job_frees_the_worker(stack):
    before = ends(stack)
    job = stack.submit(stack.job(*tiny_job(seed=1, steps=LONG)))
    stack.follow(job, until=("step",))
    stack.cancel(job)
    assert stack.follow(job)[-1] == ("cancelled", {})
    stack.until(lambda: stack.slot.state == "ready")
    assert ends(stack) - before == {"execution_interrupted": 1}
    assert stack.call_now(lambda: stack.journal.get(job.id)).state == "cancelled"
    assert not list(stack.settings.results.glob(f"{job.id}*"))


def test_the_next_job_begins_when_the_one_before_it_is_cancelled(stack):
    first = stack.submit(stack.job(*tiny_job(seed=2, steps=LONG)))
    second = stack.submit(stack.job(*tiny_job(seed=3)))
    stack.follow(first, until=("step",))
    stack.cancel(first)
    stack.wait(second)
    kinds = [(kind, data.get("position")) for kind, data in stack.follow(second) if kind in ("queued", "running")]
    assert kinds == [("queued", 1), ("running", None)]


def test_a_job_in_the_workers_own_queue_never_starts(stack):
    first, second, third = (stack.submit(stack.job(*tiny_job(seed=seed, steps=60))) for seed in (4, 5, 6))
    stack.follow(first, until=("step",))
    stack.cancel(second)
    stack.wait(first)
    stack.wait(third)
    events = [kind for kind, _ in stack.follow(second)]
    assert events == ["queued", "cancelled"], "it was never running"


def test_a_cancel_between_two_jobs_never_hits_the_next(stack):
    """Cancels come at any moment around the end of a job; the one behind it always has to be done."""
    for delay in [number / 500 for number in range(40)]:
        first = stack.submit(stack.job(*tiny_job(seed=int(delay * 1e6), steps=2)))
        second = stack.submit(stack.job(*tiny_job(seed=int(delay * 1e6) + 1, steps=1)))
        stack.follow(first, until=("running",))
        time.sleep(delay)
        stack.cancel(first)
        assert stack.follow(first)[-1][0] in ("cancelled", "done")
        stack.wait(second)


def test_a_cancelled_job_can_be_sent_again_under_its_id_at_once(stack):
    job = stack.submit(stack.job(*tiny_job(seed=7, steps=150)))
    stack.follow(job, until=("step",))
    stack.cancel(job)
    stack.call_now(lambda: stack.events.drop(job.id))
    ended = stack.call_now(lambda: stack.journal.get(job.id))
    stack.submit(replace(ended, manifest=job.manifest, blobs=job.blobs))  # as they come with the submission
    assert stack.wait(job)["steps"] == 150


def test_many_threads_cancel_at_once_and_the_worker_serves_on(stack):
    jobs = [stack.submit(stack.job(*tiny_job(seed=seed, steps=30))) for seed in range(100, 112)]
    threads = [threading.Thread(target=stack.cancel, args=(job,)) for job in jobs[::2] for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ends = [stack.follow(job)[-1][0] for job in jobs]
    assert ends == ["cancelled", "done"] * 6
    assert stack.call_now(stack.scheduler.health)["queued"] == 0
