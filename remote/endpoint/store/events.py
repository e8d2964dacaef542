"""What happens to each job, for any number of followers, resumable behind any event.

A follower has a position, not a queue, so a slow one costs no memory: it finds the events it has not seen in the job's
log, and of previews only the newest. Steps and previews may come by the hundred a second, and to wake a follower costs
more than to write it a line: so they wait a moment for each other, and leave together. Called from the event loop only.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FINAL = ("done", "failed", "cancelled")
PREVIEW = "preview"
PATIENT = ("step", PREVIEW)  # wait for others, for as many seconds:
TOGETHER_SECONDS = 0.005  # a step, for its preview
PAUSE_SECONDS = 0.05  # since the followers were woken last
MAX_KEPT = 4096  # events of one job; the older half is forgotten beyond
KEPT_AT_END = 256  # of a finished job
MAX_ENDED = 256  # finished jobs; of others, the journal has the last event


class Event(NamedTuple):
    """`id` counts from 1 in each job; `kind` and `data` are those of docs/protocol.md."""

    id: int
    kind: str
    data: dict[str, Any]


@dataclass
class _Log:
    kept: list[Event] = field(default_factory=list)
    preview: Event | None = None
    last: int = 0
    closed: bool = False
    waiting: set[asyncio.Future[bool]] = field(default_factory=set)  # one of each follower that has seen everything
    woken: float = 0.0  # when they were last, by the loop's clock
    timer: asyncio.TimerHandle | None = None  # wakes them soon

    def wake(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.waiting:
            self.woken = asyncio.get_running_loop().time()
        for future in self.waiting:
            _resolve(future, True)

    def wake_soon(self) -> None:
        if self.waiting and self.timer is None:
            loop = asyncio.get_running_loop()
            self.timer = loop.call_at(max(loop.time() + TOGETHER_SECONDS, self.woken + PAUSE_SECONDS), self.wake)

    async def wait(self, seconds: float | None) -> bool:
        """Wait to be woken; return False if `seconds` pass before."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, _resolve, future, False)
        self.waiting.add(future)
        try:
            return await future
        finally:
            self.waiting.discard(future)
            if timer is not None:
                timer.cancel()

    def behind(self, seen: int, seen_preview: int) -> list[Event]:
        """Return the events behind these numbers, and of previews at most one."""
        news = self.kept[bisect_right(self.kept, seen, key=lambda event: event.id) :]
        if self.preview is not None and self.preview.id > seen_preview and not self.ended:
            news = sorted([*news, self.preview])
        return news

    @property
    def ended(self) -> bool:
        return bool(self.kept) and self.kept[-1].kind in FINAL


class EventLog:
    """The logs of all jobs that someone follows or that have had an event."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._ended: dict[str, None] = {}  # ids, oldest first

    def emit(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        """Append an event and wake the followers. What comes behind a final event is ignored."""
        log = self._logs.setdefault(job_id, _Log())
        if log.ended:
            return
        log.last += 1
        event = Event(log.last, kind, data)
        if kind == PREVIEW:
            log.preview = event
        else:
            log.kept.append(event)
            if kind in FINAL:
                del log.kept[:-KEPT_AT_END]
                self._ended[job_id] = None
            elif len(log.kept) > MAX_KEPT:
                del log.kept[: MAX_KEPT // 2]
        if kind in PATIENT:
            log.wake_soon()
        else:
            log.wake()
        if len(self._ended) > MAX_ENDED:
            self.drop(next(iter(self._ended)))

    def has(self, job_id: str) -> bool:
        """Whether the job has had an event since the endpoint started."""
        return bool(job_id in self._logs and self._logs[job_id].kept)

    def drop(self, job_id: str) -> None:
        """Forget a job's log; its followers' streams end."""
        log = self._logs.pop(job_id, None)
        self._ended.pop(job_id, None)
        if log is not None:
            log.closed = True
            log.wake()

    def close(self) -> None:
        """Forget everything; all streams end."""
        for job_id in list(self._logs):
            self.drop(job_id)

    async def follow(
        self, job_id: str, after: int = 0, idle_seconds: float | None = None
    ) -> AsyncIterator[list[Event]]:
        """Yield the events behind number `after`, those that are there together, until a final one has been yielded or
        the log is dropped.

        Yields at once what there is, if nothing an empty list, and another one whenever `idle_seconds` pass without an
        event. An `after` that the log does not reach comes from before a restart of the endpoint: such a follower gets
        the latest event at once.
        """
        log = self._logs.setdefault(job_id, _Log())
        seen, seen_preview = after, log.last
        if log.kept and (after > log.last or (log.ended and after >= log.kept[-1].id)):
            seen = log.kept[-1].id - 1
        elif after > log.last:
            seen = 0
        idle = True
        while not log.closed:
            news = log.behind(seen, seen_preview)
            if not news and not idle:
                idle = not await log.wait(idle_seconds)
                continue
            yield news
            idle = False
            for event in news:
                if event.kind in FINAL:
                    return
                if event.kind == PREVIEW:
                    seen_preview = event.id
                seen = max(seen, event.id)


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
