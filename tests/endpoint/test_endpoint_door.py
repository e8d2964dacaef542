"""Connections that say little or nothing keep nobody out."""

import asyncio

import pytest
from served_app import served
from velocity_nodes.remote.endpoint.api import bodies, door
from velocity_nodes.remote.endpoint.settings import Limits

HALF = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: "


def run(scene, tmp_path, **limits):
    async def inside():
        async with served(tmp_path, Limits(**limits)) as endpoint:
            return await asyncio.wait_for(scene(endpoint), 60)

    return asyncio.run(inside())


async def connect(endpoint):
    return await asyncio.open_connection("127.0.0.1", int(endpoint.url.rpartition(":")[2]))


async def is_cut(reader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(), 30) == b""
    except ConnectionError:
        return True


def test_half_requests_are_cut_also_when_they_trickle(tmp_path, monkeypatch):
    monkeypatch.setattr(door, "HEAD_SECONDS", 1.0)

    async def scene(endpoint):
        slow = [await connect(endpoint) for _ in range(50)]

        async def trickle(reader, writer) -> bool:
            cut = asyncio.create_task(is_cut(reader))
            writer.write(HALF)
            while not cut.done():
                writer.write(b"a")
                await asyncio.sleep(0.1)
            return cut.result()

        async def ask() -> int:
            async with endpoint.nobody.get("/v1/health") as answer:
                return answer.status

        *cut, status = await asyncio.gather(*(trickle(*pair) for pair in slow), ask())
        assert all(cut) and status == 200

    run(scene, tmp_path)


def test_a_connection_that_is_kept_open_is_asked_again(tmp_path, monkeypatch):
    """The deadline begins anew with each answer, and does not end a stream of events."""
    monkeypatch.setattr(door, "HEAD_SECONDS", 1.0)

    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        following = asyncio.create_task(endpoint.events(job))
        for _ in range(4):
            await asyncio.sleep(0.6)
            async with endpoint.session.get("/v1/health") as answer:
                assert answer.status == 200
        endpoint.scheduler.finish(job)
        assert (await following)[-1][1] == "done"

    run(scene, tmp_path)


@pytest.mark.parametrize("limits", [{"connections": 4}, {"connections_per_address": 4}])
def test_connections_are_bounded(tmp_path, limits):
    async def scene(endpoint):
        first = [await connect(endpoint) for _ in range(4)]
        for _, writer in first:
            writer.write(HALF)
        await asyncio.sleep(0.2)
        reader, _ = await connect(endpoint)
        assert await is_cut(reader)
        for _, writer in first:
            writer.close()
        await asyncio.sleep(0.2)
        async with endpoint.nobody.get("/v1/health") as answer:
            assert answer.status == 200

    run(scene, tmp_path, **limits)


def test_a_body_that_trickles_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bodies, "SILENCE_SECONDS", 1.0)

    async def drops():
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.1)

    async def scene(endpoint):
        assert await endpoint.error("POST", "/v1/jobs", data=drops()) == (400, "bad_request")

    run(scene, tmp_path)


def test_the_count_comes_back_to_nothing():
    there = door.Door(2, 1)
    assert [there.enter("a"), there.enter("a"), there.enter("b"), there.enter("c")] == [True, False, True, False]
    there.leave("a")
    there.leave("b")
    assert not there.open
