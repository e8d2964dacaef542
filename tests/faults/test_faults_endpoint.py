"""The endpoint is down or is killed (kill -9): the user gets the picture, and no job is computed twice to its end."""

import pytest
from fault_proxy import DOWN, UP, Proxy

from dev.client import PromptError
from dev.server import free_port

LONG = 100  # steps, about 2 s


def test_down_before_submit(rig):
    painting = rig.start(rig.graph(), rig.connect("down", f"http://127.0.0.1:{free_port()}", 1))
    painting.assert_right()
    assert painting.ran_here and "Is `velocity serve` running there" in painting.log


def test_down_before_submit_and_the_user_wants_an_error(rig):
    name = rig.connect("down and raise", f"http://127.0.0.1:{free_port()}", 0)
    painting = rig.start(rig.graph(), name, on_failure="raise")
    with pytest.raises(PromptError, match="does not answer .* Is `velocity serve` running there"):
        painting.assert_right()


def test_down_behind_a_fresh_handshake(rig):
    """The endpoint was there a moment ago, so the client does not ask again what it can do."""
    with Proxy(rig.endpoint.port) as proxy:
        name = rig.connect("was here", proxy.url, 1)
        rig.start(rig.graph(), name).assert_right()
        proxy.refuse()
        painting = rig.start(rig.graph(), name)
        painting.assert_right()
        assert painting.ran_here


def test_killed_during_upload(rig):
    known, ended = rig.jobs(), rig.completed_so_far()
    with Proxy(rig.endpoint.port) as proxy:
        name = rig.connect("killed during upload", proxy.url)
        proxy.stop_at(b"PUT /v1/blobs/", UP, 20_000)
        painting = rig.start(rig.heavy_graph(), name)
        assert proxy.stopped.wait(300)
        assert rig.new_job(known).state == "uploading"
        rig.endpoint.kill()
        proxy.cut()
        rig.endpoint.start()
        painting.assert_right()
        assert not painting.ran_here
    assert rig.completed_before() == ended
    job = rig.new_job(known)
    assert rig.completed(job.id) == 1 and job.attempts == 1


def test_killed_while_one_job_runs_and_one_waits(rig):
    known, ended = rig.jobs(), rig.completed_so_far()
    running = rig.start(rig.graph(LONG))
    rig.until_step()
    waiting = {name: rig.submit_raw(steps=2) for name in ("first", "second")}
    rig.endpoint.kill()
    rig.endpoint.start()
    running.assert_right()
    assert not running.ran_here
    for job in waiting.values():
        assert rig.raw.wait(job)["state"] == "done"
    assert rig.completed_before() == ended, "the first endpoint's worker has not ended its run"
    jobs = [job for job in rig.jobs() if job not in known]
    assert [rig.completed(job.id) for job in jobs] == [1, 1, 1]
    assert [job.attempts for job in jobs] == [2, 1, 1]


def test_killed_during_download(rig):
    known = rig.jobs()
    with Proxy(rig.endpoint.port) as proxy:
        name = rig.connect("killed during download", proxy.url)
        proxy.stop_at(b"/result HTTP/1.1", DOWN, 50_000)
        painting = rig.start(rig.heavy_graph(), name)
        assert proxy.stopped.wait(300)
        job = rig.new_job(known)
        assert job.state == "done" and rig.completed(job.id) == 1
        rig.endpoint.kill()
        proxy.cut()
        rig.endpoint.start()
        painting.assert_right()
        assert not painting.ran_here
    assert rig.completed(job.id) == 0, "the result was there: the new worker has not run it again"
    assert rig.new_job(known).attempts == 1


def test_killed_and_not_restarted(rig):
    name = rig.connect("killed for good", rig.endpoint.url, 1)
    painting = rig.start(rig.graph(LONG), name)
    rig.until_step()
    worker = rig.worker()
    rig.endpoint.kill()
    try:
        painting.assert_right()
        assert painting.ran_here
        rig.until(lambda: not worker.is_running(), "the worker ends with its endpoint")
    finally:
        rig.endpoint.start()
    rig.until(rig.is_idle, "the restarted endpoint has finished the old job")
