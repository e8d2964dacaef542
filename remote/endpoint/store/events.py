"""What happens to each job, for any number of followers, resumable behind any event.

A follower has a position, not a queue, so a slow one costs no memory: it finds the events it has not seen in the job's
log, and of previews only the newest. Called from the event loop only.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FINAL = ("done", "failed", "cancelled")
PREVIEW = "preview"
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
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

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
    ) -> AsyncIterator[Event | None]:
        """Yield the events behind number `after`, until a final one has been yielded or the log is dropped.

        Yields None whenever `idle_seconds` pass without an event. An `after` that the log does not reach comes from
        before a restart of the endpoint: such a follower gets the latest event at once.
        """
        log = self._logs.setdefault(job_id, _Log())
        seen, seen_preview = after, log.last
        if log.kept and (after > log.last or (log.ended and after >= log.kept[-1].id)):
            seen = log.kept[-1].id - 1
        elif after > log.last:
            seen = 0
        while not log.closed:
            changed = log.changed
            news = log.kept[bisect_right(log.kept, seen, key=lambda event: event.id) :]
            if log.preview is not None and log.preview.id > seen_preview and not log.ended:
                seen_preview = log.preview.id
                news = sorted([*news, log.preview])
            for event in news:
                yield event
                if event.kind in FINAL:
                    return
                seen = max(seen, event.id)
            if changed is log.changed and not log.closed:
                try:
                    await asyncio.wait_for(changed.wait(), idle_seconds)
                except asyncio.TimeoutError:
                    yield None
