"""The jobs that wait: those of each key in the order they came, and the keys in turn."""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable

from ..store.estimates import Estimates
from ..store.events import EventLog
from ..store.job import Job
from .batching import MAX_ELEMENTS, MAX_JOBS, batch_key, latent_elements

NEAR = 4  # this many waiting jobs hear of each change of their place at once,
FAR_SECONDS = 2.0  # those behind them with at least this pause: every job that ends moves them all


class JobQueue:
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996), all jobs being worth the same: a key's first job waits for
    two of each other key at most. Neighbours that can be sampled together leave together."""

    def __init__(self, events: EventLog, estimates: Estimates) -> None:
        self.events, self.estimates = events, estimates
        self.jobs: list[Job] = []
        self._turns: dict[str, int] = {}  # of each job; what waits is in their order
        self._turn = 0  # of the job that left last
        self._told: dict[str, int] = {}  # the position that each job was told last
        self._now = (0, 0)  # how many jobs are at the workers, and how many workers there are
        self._pause: asyncio.TimerHandle | None = None  # until the far ones are told again
        self._alone: set[str] = set()  # jobs that are not to be part of a batch again

    def __contains__(self, job_id: str) -> bool:
        return any(job.id == job_id for job in self.jobs)

    def add(self, job: Job) -> None:
        """Put a job one turn behind the last one of its key, or into the next turn, behind those that are there."""
        turns = [self._turns[other.id] for other in self.jobs if other.owner == job.owner]
        turn = self._turns[job.id] = max([self._turn, *turns]) + 1
        self.jobs.insert(bisect_right(self.jobs, turn, key=lambda other: self._turns[other.id]), job)

    def take(self, job_id: str) -> Job | None:
        """Remove and return the job with this id."""
        found = next((job for job in self.jobs if job.id == job_id), None)
        if found is not None:
            self.jobs.remove(found)
        return found

    def take_next(self) -> list[Job]:
        """Remove and return the first job, and those right behind it that can be sampled together with it."""
        jobs = [self.jobs.pop(0)]
        key = self._key(jobs[0])
        if key is not None:
            most = min(MAX_JOBS, MAX_ELEMENTS // max(1, latent_elements(jobs[0].manifest)))
            while len(jobs) < most and self.jobs and self._key(self.jobs[0]) == key:
                jobs.append(self.jobs.pop(0))
        self._turn = self._turns[jobs[-1].id]
        return jobs

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Put jobs before all others."""
        jobs = list(jobs)
        self.jobs[:0] = jobs
        self._turns.update((job.id, self._turn) for job in jobs)

    def keep_alone(self, job: Job) -> None:
        """Never again let the job be part of a batch."""
        self._alone.add(job.id)

    def tell_all(self, before: int, workers: int) -> None:
        """Tell every job its place, at once or, if it is far behind, soon; `before` jobs are at the workers."""
        self._now, pausing = (before, workers), self._pause is not None
        for place, job in enumerate(self.jobs):
            if place < NEAR or job.id not in self._told or not pausing:
                self.tell(job, before + place, workers)
        if len(self.jobs) > NEAR and not pausing:
            self._pause = asyncio.get_running_loop().call_later(FAR_SECONDS, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self.tell_all(*self._now)

    def tell(self, job: Job, position: int, workers: int) -> None:
        """Tell a job how many are before it, and for how many seconds, if the number has changed."""
        if self._told.get(job.id) != position:
            self._told[job.id] = position
            per_job = self.estimates.job_seconds(job.manifest)
            seconds = None if per_job is None else round(position * per_job / max(1, workers), 2)
            self.events.emit(job.id, "queued", {"position": position, "seconds": seconds})

    def forget(self, job: Job) -> None:
        """The job has ended, or starts anew."""
        self._told.pop(job.id, None)
        self._turns.pop(job.id, None)
        self._alone.discard(job.id)

    def _key(self, job: Job) -> str | None:
        return None if job.id in self._alone else batch_key(job.manifest)
