"""What one key does costs the others nothing: places in the queue, room for tensors and results, streams, requests."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from served_app import ANNA, blob, manifest, served, tensor
from velocity_nodes.remote.endpoint.api import wrong_keys
from velocity_nodes.remote.endpoint.scheduling import intake
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.wire.blob import blob_name


def run(scene, *arguments, **options):
    async def inside():
        async with served(*arguments, **options) as endpoint:
            return await asyncio.wait_for(scene(endpoint), 60)

    return asyncio.run(inside())


def key(number: int) -> str:
    return f"key-of-the-job-{number:02}"


async def refused(answer) -> tuple[int, dict, str | None]:
    return answer.status, (await answer.json())["error"], answer.headers.get("Retry-After")


async def half_sent(endpoint, data: bytes):
    """Begin to upload a blob as anna; return the connection once the endpoint has room for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))
    head = f"PUT /v1/blobs/{blob_name(data)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANNA}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: len(data) // 2])
    await asyncio.sleep(0.2)
    return writer


def test_one_key_does_not_fill_the_queue(tmp_path):
    async def scene(endpoint):
        endpoint.scheduler.per_job = 41.5
        for number in range(2):
            await endpoint.submit(key=key(number))
        async with endpoint.session.post("/v1/jobs", json=manifest(key=key(2))) as answer:
            status, error, retry_after = await refused(answer)
        assert (status, error["code"], retry_after) == (429, "queue_full", "42")
        assert "2 jobs of this key" in error["message"] and "share" in error["message"]
        assert "--key-share" in error["next"]
        async with endpoint.other.post("/v1/jobs", json=manifest()) as answer:
            assert answer.status == 200
        endpoint.scheduler.finish(endpoint.scheduler.submitted[0].id)
        assert (await endpoint.submit(key=key(2)))["state"] == "queued"

    run(scene, tmp_path, Limits(queue=8))


def test_jobs_whose_tensors_do_not_come_are_few(tmp_path):
    async def scene(endpoint):
        waits = {"cuts": [[tensor(blob())]]}
        for number in range(2):
            await endpoint.submit(key=key(number), **waits)
        async with endpoint.session.post("/v1/jobs", json=manifest(key=key(2), **waits)) as answer:
            status, error, retry_after = await refused(answer)
        assert (status, error["code"], retry_after) == (429, "queue_full", "10") and "--max-uploads" in error["next"]
        async with endpoint.other.post("/v1/jobs", json=manifest(**waits)) as answer:
            assert answer.status == 200
        assert await endpoint.put(blob()) == 204
        assert (await endpoint.submit(key=key(2), **waits))["state"] == "queued"

    run(scene, tmp_path, Limits(uploads=2))


def test_one_key_does_not_fill_the_store(tmp_path):
    """Neither with an upload that does not go on, nor with tensors of jobs that wait."""

    async def scene(endpoint):
        large, small = blob(4_000_000, 1), blob(2_000_000, 2)
        stopped = await half_sent(endpoint, large)
        async with endpoint.session.put(f"/v1/blobs/{blob_name(small)}", data=small) as answer:
            status, error, _ = await refused(answer)
        assert (status, error["code"]) == (507, "disk_full")
        assert "its share of the store, 5000000 bytes" in error["message"] and "--key-share" in error["next"]
        for filled in (3, 4, 5):
            data = blob(4_000_000, filled)
            async with endpoint.other.put(f"/v1/blobs/{blob_name(data)}", data=data) as answer:
                assert answer.status == 204
        stopped.close()
        await asyncio.sleep(0.2)
        assert await endpoint.put(small) == 204
        await endpoint.submit(cuts=[[tensor(small, 2_000_000)]])
        assert await endpoint.put(blob(2_000_000, 6)) == 204
        assert await endpoint.put(large) == 507

    run(scene, tmp_path, blob_gigabytes=0.02)


def test_who_has_more_than_its_share_makes_room_first(tmp_path):
    async def scene(endpoint):
        hers = blob(1_000, 1)
        async with endpoint.other.put(f"/v1/blobs/{blob_name(hers)}", data=hers) as answer:
            assert answer.status == 204
        for filled in range(2, 12):
            assert await endpoint.put(blob(1_000, filled)) == 204
        async with endpoint.other.head(f"/v1/blobs/{blob_name(hers)}") as answer:
            assert answer.status == 200, "berta's is older, and anna's own had to leave"

    run(scene, tmp_path, blob_gigabytes=8_000e-9)


def test_an_upload_that_has_stopped_is_given_up_and_a_slow_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "UPLOAD_SECONDS", 0.4)

    async def scene(endpoint):
        data = blob(2_000)

        async def slowly():
            for start in range(0, len(data), 300):
                yield data[start : start + 300]
                await asyncio.sleep(0.15)
                endpoint.app.state.expire()

        stopped = (await endpoint.submit(cuts=[[tensor(blob(10), 10)]]))["job"]
        slow = (await endpoint.submit(key=key(1), cuts=[[tensor(data, 2_000)]]))["job"]
        async with endpoint.session.put(f"/v1/blobs/{blob_name(data)}", data=slowly()) as answer:
            assert answer.status == 204
        assert [job.id for job in endpoint.scheduler.submitted] == [slow]
        assert (await endpoint.events(stopped))[-1][1] == "failed"
        async with endpoint.session.get(f"/v1/jobs/{stopped}") as answer:
            assert (await answer.json())["error"]["code"] == "gone", "by which a client submits it again"
        again = await endpoint.submit(cuts=[[tensor(blob(10), 10)]])
        assert (again["job"], again["state"]) == (stopped, "uploading")

    run(scene, tmp_path)


def test_a_key_learns_nothing_of_the_blobs_of_others(tmp_path):
    data = blob()
    path, waits = f"/v1/blobs/{blob_name(data)}", {"cuts": [[tensor(data)]]}

    async def scene(endpoint):
        assert await endpoint.put(data) == 204
        async with endpoint.other.head(path) as answer:
            assert answer.status == 404
        async with endpoint.other.post("/v1/jobs", json=manifest(**waits)) as answer:
            assert (await answer.json())["missing"] == [blob_name(data)]
        async with endpoint.other.head(path) as answer:
            assert answer.status == 404, "to name it is not to have it"
        assert await endpoint.put(data) == 204
        assert not endpoint.scheduler.submitted, "anna's upload does not answer for berta's"
        async with endpoint.other.put(path, data=data) as answer:
            assert answer.status == 204
        assert [job.owner for job in endpoint.scheduler.submitted] == ["berta"]
        assert len(list(tmp_path.glob("blobs/??/*"))) == 1

    async def after_a_restart(endpoint):
        for session in (endpoint.session, endpoint.other):
            async with session.head(path) as answer:
                assert answer.status == 200
        (tmp_path / "blobs" / blob_name(data)[:2] / blob_name(data)).unlink()
        async with endpoint.session.head(path) as answer:
            assert answer.status == 404
        async with endpoint.other.put(path, data=data) as answer:
            assert answer.status == 204
        async with endpoint.session.head(path) as answer:
            assert answer.status == 404, "that berta has sent it again is not anna's business"

    run(scene, tmp_path)
    run(after_a_restart, tmp_path)


def test_the_oldest_results_of_a_key_make_room(tmp_path):
    async def scene(endpoint):
        async with endpoint.other.post("/v1/jobs", json=manifest()) as answer:
            hers = (await answer.json())["job"]
        endpoint.scheduler.finish(hers, b"x" * 1_000)
        jobs = [(await endpoint.submit(key=key(number)))["job"] for number in range(4)]
        for job in jobs:
            endpoint.scheduler.finish(job, b"x" * 1_000)
        states = []
        for job in jobs:
            async with endpoint.session.get(f"/v1/jobs/{job}") as answer:
                states.append((await answer.json())["state"])
        assert states == ["released", "released", "done", "done"]
        async with endpoint.other.get(f"/v1/jobs/{hers}/result") as answer:
            assert answer.status == 200
        assert len(list(tmp_path.glob("results/*"))) == 3
        return jobs

    async def after_a_restart(endpoint):
        job = (await endpoint.submit(key=key(9)))["job"]
        endpoint.scheduler.finish(job, b"x" * 1_000)
        assert await endpoint.error("GET", f"/v1/jobs/{jobs[2]}/result") == (410, "gone")

    jobs = run(scene, tmp_path, result_gigabytes=8_000e-9)
    run(after_a_restart, tmp_path, result_gigabytes=8_000e-9)


def test_event_streams_of_a_key_are_bounded(tmp_path):
    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        async with AsyncExitStack() as streams:
            for _ in range(4):
                answer = await streams.enter_async_context(endpoint.session.get(f"/v1/jobs/{job}/events"))
                assert answer.status == 200
            async with endpoint.session.get(f"/v1/jobs/{job}/events") as answer:
                status, error, retry_after = await refused(answer)
            assert (status, error["code"], retry_after) == (429, "rate_limited", "1")
            assert "4 event streams of this key" in error["message"]
            assert (await endpoint.submit())["job"] == job, "other requests are taken"
            async with endpoint.other.post("/v1/jobs", json=manifest()) as answer:
                hers = (await answer.json())["job"]
            async with endpoint.other.get(f"/v1/jobs/{hers}/events") as answer:
                assert answer.status == 200
        endpoint.scheduler.finish(job)
        while True:  # the endpoint sees at its own pace that the others have gone
            async with endpoint.session.get(f"/v1/jobs/{job}/events") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)

    run(scene, tmp_path, Limits(connections=32))


def test_requests_of_a_key_that_are_under_way_are_bounded(tmp_path):
    async def scene(endpoint):
        stopped = [await half_sent(endpoint, blob(1_000, filled)) for filled in range(2)]
        async with endpoint.session.get("/v1/capabilities") as answer:
            status, error, _ = await refused(answer)
        assert (status, error["code"]) == (429, "rate_limited") and "2 requests of this key" in error["message"]
        async with endpoint.other.get("/v1/capabilities") as answer:
            assert answer.status == 200
        for writer in stopped:
            writer.close()
        await asyncio.sleep(0.2)
        async with endpoint.session.get("/v1/capabilities") as answer:
            assert answer.status == 200

    run(scene, tmp_path, Limits(connections=8))


def test_wrong_keys_wait_for_their_answer_and_right_ones_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(wrong_keys, "STEP_SECONDS", 1e6)

    async def scene(endpoint):
        async def wrong() -> int:
            async with endpoint.nobody.get("/v1/capabilities", headers={"Authorization": "Bearer wrong"}) as answer:
                return answer.status

        assert await asyncio.gather(*(wrong() for _ in range(wrong_keys.FREE))) == [401] * wrong_keys.FREE
        late = [asyncio.create_task(wrong()) for _ in range(5)]
        await asyncio.sleep(0.5)
        async with endpoint.session.get("/v1/capabilities") as answer:
            assert answer.status == 200
        assert not any(task.done() for task in late)
        for task in late:
            task.cancel()

    run(scene, tmp_path)


def test_wrong_keys_are_forgiven_and_cost_no_memory():
    found = wrong_keys.WrongKeys()
    seconds = [found.seconds("a", now=0.0) for _ in range(1000)]
    assert seconds[: wrong_keys.FREE] == [0.0] * wrong_keys.FREE
    assert 0 < seconds[wrong_keys.FREE] < seconds[-1] == wrong_keys.LONGEST_SECONDS
    assert found.seconds("b", now=0.0) == 0.0
    assert found.seconds("a", now=time.time()) == 0.0
    for number in range(3 * wrong_keys.MAX_ADDRESSES):
        found.seconds(str(number), now=0.0)
    assert len(found._addresses) == wrong_keys.MAX_ADDRESSES


@pytest.mark.parametrize(("keys", "most"), [(1, 256), (2, 64), (9, 64)])
def test_a_key_that_is_alone_may_take_everything(keys, most):
    assert intake.Shares(Limits(), keys).of(256) == most
