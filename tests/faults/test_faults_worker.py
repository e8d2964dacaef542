"""The worker is killed, hangs, or runs out of memory or disk."""

import psutil
import pytest
from fault_setup import STALL_SECONDS

from dev.client import PromptError

LONG = 100  # steps, about 2 s
limits = pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="resource limits of processes need Linux")


def test_worker_killed(rig):
    known, ended = rig.jobs(), rig.completed_so_far()
    painting = rig.start(rig.graph(LONG))
    rig.until_step()
    rig.worker().kill()
    painting.assert_right()
    assert not painting.ran_here
    assert "the worker ended with code -9; it is started again and so is the job" in painting.log
    job = rig.new_job(known)
    assert rig.completed_before() == ended and rig.completed(job.id) == 1 and job.attempts == 2


def test_worker_killed_twice(rig):
    known = rig.jobs()
    painting = rig.start(rig.graph(LONG))
    for _ in range(2):
        rig.until_step()
        rig.worker().kill()
        rig.until(lambda: not rig.health()["running"], "the endpoint has seen it")
    painting.assert_right()
    assert painting.ran_here and "the worker ended with code -9, for the second time" in painting.log
    job = rig.new_job(known)
    assert job.state == "failed" and job.attempts == 2
    rig.until_ready()
    assert rig.completed(job.id) == 0


def test_worker_hangs(rig):
    known, ended = rig.jobs(), rig.completed_so_far()
    painting = rig.start(rig.graph(LONG))
    rig.until_step()
    hung = rig.worker()
    hung.suspend()
    painting.assert_right()
    assert not painting.ran_here and not hung.is_running()
    assert f"the worker did nothing for {STALL_SECONDS} s; it is started again" in painting.log
    job = rig.new_job(known)
    assert rig.completed_before() == ended and rig.completed(job.id) == 1 and job.attempts == 2


@limits
def test_worker_out_of_memory(rig):
    """A latent within the limits that the worker has no memory for is one clear error, and the worker lives on."""
    graph, worker = rig.graph(steps=1), rig.worker()
    graph["empty"]["inputs"].update(width=1024, height=1024, batch_size=16)
    before = worker.rlimit(psutil.RLIMIT_AS)
    worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 50_000_000, before[1]))
    try:
        with pytest.raises(PromptError, match="endpoint is out of memory: make the latent or the batch smaller"):
            rig.start(graph, on_failure="raise").assert_right()
    finally:
        worker.rlimit(psutil.RLIMIT_AS, before)
    assert rig.worker().pid == worker.pid


@limits
def test_worker_cannot_write_the_result(rig):
    """No room for the result on the endpoint's disk: the picture is made here."""
    known, worker = rig.jobs(), rig.worker()
    before = worker.rlimit(psutil.RLIMIT_FSIZE)
    worker.rlimit(psutil.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        painting = rig.start(rig.heavy_graph())
        painting.assert_right()
    finally:
        worker.rlimit(psutil.RLIMIT_FSIZE, before)
    assert painting.ran_here and "results folder cannot be written, perhaps its disk is full" in painting.log
    assert rig.new_job(known).state == "failed"
    assert not list((rig.endpoint.data / "results").glob(f"{rig.new_job(known).id}*")), "nothing half written is left"
