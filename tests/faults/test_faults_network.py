"""The network between client and endpoint is cut, slow or late."""

import time

from fault_proxy import DOWN, UP, Proxy

LONG = 100  # steps, about 2 s
MEGABIT = 125_000.0  # bytes per second


def test_cut_while_it_runs_and_restored(rig):
    known = rig.jobs()
    with Proxy(rig.endpoint.port) as proxy:
        painting = rig.start(rig.graph(LONG), rig.connect("cut", proxy.url))
        rig.until_step()
        proxy.refuse()
        time.sleep(0.5)
        proxy.restore()
        painting.assert_right()
        assert not painting.ran_here
    job = rig.new_job(known)
    assert rig.completed(job.id) == 1 and job.attempts == 1


def test_cut_in_the_middle_of_upload_and_download(rig):
    known = rig.jobs()
    with Proxy(rig.endpoint.port) as proxy:
        name = rig.connect("cut twice", proxy.url)
        proxy.stop_at(b"PUT /v1/blobs/", UP, 20_000)
        painting = rig.start(rig.heavy_graph(), name)
        assert proxy.stopped.wait(300)
        proxy.stop_at(b"/result HTTP/1.1", DOWN, 50_000)
        proxy.cut()
        assert proxy.stopped.wait(300)
        proxy.cut()
        painting.assert_right()
        assert not painting.ran_here
    job = rig.new_job(known)
    assert rig.completed(job.id) == 1 and job.attempts == 1


def test_cut_for_good(rig):
    """The picture is made here, and the endpoint, which cannot be told, ends the job by itself."""
    known = rig.jobs()
    with Proxy(rig.endpoint.port) as proxy:
        painting = rig.start(rig.graph(LONG), rig.connect("cut for good", proxy.url, 1))
        rig.until_step()
        proxy.refuse()
        painting.assert_right()
        assert painting.ran_here
    assert rig.raw.wait(rig.new_job(known).id)["state"] == "done"


def test_one_megabit_per_second(rig):
    known = rig.jobs()
    with Proxy(rig.endpoint.port, bytes_per_second=MEGABIT) as proxy:
        start = time.monotonic()
        painting = rig.start(rig.heavy_graph(), rig.connect("slow", proxy.url, 5))
        painting.assert_right()
        assert time.monotonic() - start > 3, "260 kB in each direction"
        assert not painting.ran_here
    assert rig.new_job(known).attempts == 1


def test_a_delay_of_a_tenth_of_a_second(rig):
    known = rig.jobs()
    with Proxy(rig.endpoint.port, delay_seconds=0.1) as proxy:
        painting = rig.start(rig.graph(), rig.connect("late", proxy.url, 5))
        painting.assert_right()
        assert not painting.ran_here
    assert rig.new_job(known).attempts == 1
