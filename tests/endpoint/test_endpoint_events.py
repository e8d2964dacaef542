"""The event log: followers that join early, late, again, or read slowly."""

import asyncio
from collections.abc import AsyncIterator

from velocity_nodes.remote.endpoint.store.events import MAX_KEPT, Event, EventLog


async def collect(log: EventLog, after: int = 0) -> list[tuple[int, str]]:
    return [(event.id, event.kind) async for news in log.follow("job", after) for event in news]


async def following(stream: AsyncIterator[list[Event]]) -> AsyncIterator[Event]:
    """Yield the events one by one."""
    async for news in stream:
        for event in news:
            yield event


def test_every_follower_sees_every_event_and_ends_with_the_final_one():
    async def scene() -> None:
        log = EventLog()
        log.emit("job", "queued", {"position": 0})
        followers = [asyncio.create_task(collect(log)) for _ in range(3)]
        for number in range(5):
            await asyncio.sleep(0)
            log.emit("job", "step", {"value": number})
        log.emit("job", "done", {})
        log.emit("job", "step", {"value": 99})
        expected = [(1, "queued"), *((number, "step") for number in range(2, 7)), (7, "done")]
        for follower in followers:
            assert await asyncio.wait_for(follower, 5) == expected
        assert await collect(log) == expected
        assert await collect(log, after=5) == [(6, "step"), (7, "done")]
        assert await asyncio.wait_for(collect(log, after=7), 5) == [(7, "done")]

    asyncio.run(scene())


def test_numbers_from_before_a_restart_bring_the_latest_event():
    async def scene() -> None:
        log = EventLog()
        for kind in ("queued", "running"):
            log.emit("job", kind, {})
        stream = following(log.follow("job", after=40))
        assert (await anext(stream)).kind == "running"
        log.emit("job", "done", {})
        assert (await anext(stream)).kind == "done"
        for after in (3, 4, 1000):
            assert await collect(log, after) == [(3, "done")]

    asyncio.run(scene())


def test_previews_reach_only_who_is_there_and_a_slow_one_gets_the_newest():
    async def scene() -> None:
        log = EventLog()
        log.emit("job", "preview", {"value": 1})
        log.emit("job", "step", {"value": 1})
        stream = following(log.follow("job"))
        assert (await anext(stream)).kind == "step"
        for value in (2, 3, 4):
            log.emit("job", "preview", {"value": value})
        assert (await anext(stream)).data == {"value": 4}
        log.emit("job", "preview", {"value": 5})
        log.emit("job", "done", {})
        assert [event.kind async for event in stream] == ["done"]

    asyncio.run(scene())


def test_idle_followers_are_told_and_dropped_ones_end():
    async def scene() -> None:
        log = EventLog()
        stream = log.follow("job", idle_seconds=0.01)
        assert await anext(stream) == [], "at once"
        assert await anext(stream) == [], "after a while"
        ending = asyncio.create_task(collect(log))
        await asyncio.sleep(0)
        log.drop("job")
        assert await asyncio.wait_for(ending, 5) == []
        assert [event async for event in stream] == []
        assert not log.has("job")

    asyncio.run(scene())


def test_quick_steps_leave_together_and_nothing_else_waits_for_them():
    async def scene() -> None:
        log = EventLog()
        stream = log.follow("job")
        assert await anext(stream) == []
        received: list[list[Event]] = []

        async def receive() -> None:
            async for news in stream:
                received.append(news)

        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        log.emit("job", "running", {})
        await asyncio.sleep(0.001)
        assert [event.kind for news in received for event in news] == ["running"]
        for value in range(1, 21):
            log.emit("job", "step", {"value": value})
            log.emit("job", "preview", {"value": value})
            await asyncio.sleep(0)
        assert len(received) == 1
        await asyncio.wait_for(_until(lambda: len(received) == 2), 5)
        steps = [event.data["value"] for event in received[1] if event.kind == "step"]
        assert steps == list(range(1, 21)), "each is told, also the last when none comes behind it"
        assert received[1][-1].data == {"value": 20}
        log.emit("job", "step", {"value": 21})
        log.emit("job", "done", {})
        await asyncio.wait_for(receiving, 5)
        assert [event.kind for event in received[2]] == ["step", "done"]

    asyncio.run(scene())


async def _until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_log_is_bounded():
    async def scene() -> None:
        log = EventLog()
        for value in range(3 * MAX_KEPT):
            log.emit("job", "step", {"value": value})
        log.emit("job", "done", {})
        seen = await collect(log)
        assert seen[-1] == (3 * MAX_KEPT + 1, "done")
        assert 100 < len(seen) <= MAX_KEPT

    asyncio.run(scene())
