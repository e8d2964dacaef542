"""The order in which waiting jobs leave, and the places that they are told."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

from velocity_nodes.remote.endpoint.scheduling.job_queue import JobQueue
from velocity_nodes.remote.endpoint.store.estimates import Estimates
from velocity_nodes.remote.endpoint.store.events import EventLog
from velocity_nodes.remote.endpoint.store.job import Job
from velocity_nodes.remote.endpoint.store.journal import Journal

ALONE = {"graph": {}, "cuts": [], "output": ["1", 0], "exact": True}


def in_loop(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """The queue lives on the event loop."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        async def scene() -> None:
            test(tmp_path)

        asyncio.run(scene())

    return run


class Waiting:
    """A queue, with jobs called by their key's letter and a number."""

    def __init__(self, folder) -> None:
        self.events = EventLog()
        self.queue = JobQueue(self.events, Estimates(Journal(folder / "journal.sqlite")))

    def add(self, *names: str) -> None:
        for name in names:
            self.queue.add(Job(name, name[0], name, {**ALONE, "graph": {"1": {"class_type": "X", "inputs": {}}}}))
            self.queue.tell_all(0, 1)

    def leave(self, count: int) -> list[str]:
        left = []
        for _ in range(count):
            left += [job.id for job in self.queue.take_next()]
            self.queue.tell_all(0, 1)
        return left

    def order(self) -> list[str]:
        return [job.id for job in self.queue.jobs]

    def places(self, name: str) -> list[int]:
        return [event.data["position"] for event in self.events._logs[name].kept]


@in_loop
def test_a_key_with_many_jobs_does_not_keep_others_waiting(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add(*(f"a{number}" for number in range(200)))
    assert waiting.leave(3) == ["a0", "a1", "a2"]
    waiting.add("b0", "b1", "c0")
    assert waiting.leave(6) == ["a3", "b0", "c0", "a4", "b1", "a5"]
    assert waiting.places("b0") == [1, 0] and waiting.places("c0") == [2, 1, 0]
    waiting.add("b2")
    assert waiting.leave(3) == ["a6", "b2", "a7"], "a key whose jobs have left gets a turn, not all it missed"


@in_loop
def test_what_is_told_is_where_a_job_stands(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add("a0", "a1", "b0")
    assert waiting.order() == ["a0", "b0", "a1"]
    assert waiting.places("a1") == [1, 2]
    assert [waiting.places(name)[-1] for name in waiting.order()] == [0, 1, 2]


@in_loop
def test_the_jobs_of_one_key_keep_their_order_also_when_one_runs_again(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add("a0", "a1", "a2")
    (again,) = waiting.queue.take_next()
    waiting.queue.forget(again)
    waiting.queue.put_back([again])
    waiting.add("b0")
    assert waiting.leave(4) == ["a0", "a1", "b0", "a2"]


@in_loop
def test_a_key_that_has_cancelled_its_jobs_is_not_put_behind(tmp_path):
    waiting = Waiting(tmp_path)
    waiting.add("a0", "a1", "a2", "a3", "b0", "b1")
    for name in ("a0", "a1", "a2", "a3"):
        waiting.queue.forget(waiting.queue.take(name))
    waiting.add("a4")
    assert waiting.order() == ["b0", "a4", "b1"]
