"""The queue in front of the worker, and what outlives a restart of the endpoint."""

import uuid

import pytest
from velocity_nodes.remote.endpoint.store.estimates import WEIGHT
from velocity_nodes.remote.endpoint.store.job import RUNNING
from worker_stack import Stack, tiny_job

from dev.server import TINY_MODEL


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"), preload=(TINY_MODEL, "no such.safetensors"))
    yield stack.until_ready()
    stack.stop()


def test_a_preloaded_model_is_warm_for_the_first_job(stack):
    assert stack.call_now(stack.scheduler.capabilities)["warm"] == [TINY_MODEL]
    events = stack.follow(stack.submit(stack.job(*tiny_job())))
    assert events[-1][0] == "done" and "cold" not in {kind for kind, _ in events}
    log = stack.slot.worker.log_path.read_text(encoding="utf-8", errors="replace")
    assert log.count("model_type FLOW") == 1, "the job used the model that was loaded before"


def test_jobs_run_in_the_order_they_came_and_hear_their_place(stack):
    jobs = [stack.submit(stack.job(*tiny_job(seed=10 + number, steps=15))) for number in range(4)]
    ends = [stack.follow(job) for job in jobs]
    places = [[data["position"] for kind, data in events if kind == "queued"] for events in ends]
    assert places == [[0], [1], [2, 1], [3, 2, 1]]
    starts = [stack.call_now(lambda job=job: stack.journal.get(job.id)).finished for job in jobs]
    assert starts == sorted(starts)


def test_the_wait_is_estimated_from_earlier_jobs(stack):
    earlier, *jobs = (stack.job(*tiny_job(seed=20 + number, steps=40)) for number in range(4))
    before = estimate(stack, earlier)
    result = stack.wait(stack.submit(earlier))
    took = result["seconds"] - result["load_seconds"]
    assert estimate(stack, earlier) == pytest.approx(took if before is None else before + WEIGHT * (took - before))

    def submit_all() -> float:
        for job in jobs:
            stack.scheduler.submit(job)
        return stack.scheduler.estimates.job_seconds(earlier.manifest)

    per_job = stack.call_now(submit_all)
    seconds = [data["seconds"] for kind, data in stack.follow(jobs[2]) if kind == "queued"]
    assert seconds[0] == round(2 * per_job, 2) > 0
    assert stack.call_now(stack.scheduler.capabilities)["seconds_per_job"] > 0


def estimate(stack, job) -> float | None:
    return stack.call_now(lambda: stack.scheduler.estimates.job_seconds(job.manifest))


def test_the_first_event_comes_with_the_submission(stack):
    job = stack.job(*tiny_job(seed=30))
    assert stack.call_now(lambda: stack.scheduler.submit(job) or stack.events.has(job.id))
    assert stack.follow(job)[0][0] == "queued"


def test_the_next_job_is_at_the_worker_before_it_is_wanted(stack):
    jobs = [stack.submit(stack.job(*tiny_job(seed=40 + number, steps=150))) for number in range(3)]
    stack.follow(jobs[0], until=("step",))
    queue = stack.worker_client().get("/queue")
    assert [len(queue[kind]) for kind in ("queue_running", "queue_pending")] == [1, 1]
    for job in jobs:
        stack.cancel(job)


@pytest.mark.soak("it asserts a speed")
def test_the_worker_never_waits_between_jobs(stack):
    """By the worker's own clock the next prompt begins right when one ends; straight at the worker it is the same."""
    jobs = [stack.submit(stack.job(*tiny_job(seed=100 + number, steps=6))) for number in range(12)]
    for job in jobs:
        stack.wait(job)
    history = stack.worker_client().get("/history")
    events = [dict(entry["status"]["messages"]) for entry in list(history.values())[-12:]]
    starts = [event["execution_start"]["timestamp"] for event in events]
    ends = [event["execution_success"]["timestamp"] for event in events]
    gaps = sorted(start - end for start, end in zip(starts[1:], ends, strict=False))
    assert gaps[len(gaps) // 2] <= 10, f"milliseconds between two prompts: {gaps}"


def test_a_job_that_is_submitted_twice_runs_once(stack):
    job = stack.job(*tiny_job(seed=40))
    stack.submit(job)
    stack.submit(job)
    events = stack.follow(job)
    assert [kind for kind, _ in events if kind in ("queued", "running", "done")] == ["queued", "running", "done"]


def test_a_restarted_endpoint_ends_every_job(tmp_path):
    stack = Stack(tmp_path).until_ready()
    jobs = [stack.submit(stack.job(*tiny_job(seed=number, steps=steps))) for number, steps in enumerate((300, 4, 4))]
    stack.follow(jobs[0], until=("step",))
    stack.stop()
    left = tmp_path / "data" / "results" / f"{uuid.uuid4()}.{uuid.uuid4()}.bin"
    left.write_bytes(b"half a result")

    stack = Stack(tmp_path)
    try:
        unfinished = stack.call_now(stack.journal.unfinished)
        assert [job.id for job in unfinished] == [job.id for job in jobs]
        assert [job.attempts for job in unfinished] == [0, 0, 0], "to stop the endpoint costs no attempt"
        stack.call_now(lambda: stack.journal.update(jobs[1].id, state=RUNNING, attempts=1))  # as after a kill
        stack.call_now(lambda: stack.journal.update(jobs[2].id, state=RUNNING, attempts=2))
        for job in stack.call_now(stack.journal.unfinished):
            stack.submit(job)
        assert stack.wait(jobs[0])["steps"] == 300
        running = [data for kind, data in stack.follow(jobs[1]) if kind == "running"]
        assert running == [{"worker": 0, "attempt": 2}]
        assert stack.follow(jobs[2])[-1][1]["code"] == "worker_failed"
        assert not left.exists()
    finally:
        stack.stop()


def test_two_workers_share_the_queue_and_one_goes_on_when_the_other_dies(tmp_path):
    stack = Stack(tmp_path, workers=2)
    try:
        stack.until(lambda: [slot.state for slot in stack.scheduler.slots] == ["ready", "ready"])
        jobs = [stack.submit(stack.job(*tiny_job(seed=number, steps=150))) for number in range(3)]
        ran = [dict(stack.follow(job, until=("running",)))["running"]["worker"] for job in jobs[:2]]
        assert sorted(ran) == [0, 1]
        stack.scheduler.slots[1].worker.process.kill()
        for job in jobs:
            stack.wait(job)
        ran = [[data["worker"] for kind, data in stack.follow(job) if kind == "running"] for job in jobs]
        assert ran[0] == [0] and 0 in ran[1] + ran[2]
    finally:
        stack.stop()
