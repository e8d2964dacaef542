"""What waiting jobs are told of their place: at once if they are near, and true in the end for all."""

import asyncio

from velocity_nodes.remote.endpoint.scheduling import job_queue
from velocity_nodes.remote.endpoint.scheduling.job_queue import NEAR, JobQueue
from velocity_nodes.remote.endpoint.store.estimates import Estimates
from velocity_nodes.remote.endpoint.store.events import EventLog
from velocity_nodes.remote.endpoint.store.job import Job
from velocity_nodes.remote.endpoint.store.journal import Journal

MANIFEST = {"graph": {}, "cuts": []}


def test_the_near_hear_of_each_change_and_the_far_of_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr(job_queue, "FAR_SECONDS", 0.2)
    journal, events = Journal(tmp_path / "journal.sqlite"), EventLog()
    queue = JobQueue(events, Estimates(journal))

    async def told(number: int) -> list[int]:
        return [event.data["position"] for event in await anext(events.follow(str(number)))]

    async def scene() -> None:
        for number in range(12):
            queue.jobs.append(Job(str(number), "anna", str(number), MANIFEST))
            queue.tell_all(1, 1)
            assert await told(number) == [number + 1], "a new job hears its place with its submission"
        for _ in range(5):
            queue.jobs.pop(0)
            queue.tell_all(1, 1)
        assert await told(NEAR) == [5, 4, 3, 2, 1], "near ones miss none"
        assert await told(11) == [12], "a far one does not hear of every job that ends"
        await asyncio.sleep(0.3)
        assert await told(11) == [12, 7]
        assert [(await told(5 + place))[-1] for place in range(7)] == [1 + place for place in range(7)]

    asyncio.run(scene())
    journal.close()
