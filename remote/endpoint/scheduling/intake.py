"""What is promised for a job before it is queued and after its end: submission, missing blobs, release, expiry."""

import json
import logging
import time
import uuid
from pathlib import Path
from typing import Any

from ..admission.admission import admit, blob_places, check_nodes_and_models
from ..admission.packed import check_header
from ..admission.refusal import Refusal
from ..settings import Settings
from ..store.blobs import BlobStore
from ..store.events import EventLog
from ..store.job import CANCELLED, DONE, FAILED, QUEUED, RELEASED, RUNNING, UPLOADING, Job
from ..store.journal import Journal
from ..store.metrics import Metrics
from .scheduler import Scheduler

log = logging.getLogger("velocity")
UPLOAD_SECONDS = 3600.0  # a job whose blobs have not all come by then is cancelled


def result_path(settings: Settings, job_id: str) -> Path:
    """Return where the job's result is, or will be."""
    return settings.results / f"{job_id}.bin"


class Intake:
    """Takes jobs in and hands those that lack nothing to the scheduler."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        blobs: BlobStore,
        events: EventLog,
        scheduler: Scheduler,
        metrics: Metrics,
    ) -> None:
        self.settings, self.journal, self.blobs, self.events = settings, journal, blobs, events
        self.scheduler, self.metrics = scheduler, metrics
        self.stopping = False
        self._missing: dict[str, set[str]] = {}  # job id -> names of blobs that have not come

    def resume(self) -> None:
        """Take up the jobs that an earlier run of the endpoint accepted and did not finish."""
        for job in self.journal.unfinished():
            if job.state == UPLOADING:
                self._queue_or_wait(job)
            else:
                self.journal.update(job.id, state=QUEUED)
                job.state = QUEUED
                self.scheduler.submit(job)

    async def stop(self) -> None:
        """Take no more jobs, stop the workers, end all event streams. A second call does nothing."""
        if not self.stopping:
            self.stopping = True
            await self.scheduler.stop()
            self.events.close()

    def submit(self, owner: str, manifest: Any) -> tuple[Job, list[str]]:
        """Return the job of this manifest, new or known, and the names of the blobs that it lacks. Raises `Refusal`."""
        names = admit(manifest, self.settings.limits, None)
        job = self.journal.find(owner, manifest["key"])
        if job is not None:
            if json.dumps(job.manifest, sort_keys=True) != json.dumps(manifest, sort_keys=True):
                message = "another manifest was sent under this idempotency key"
                raise Refusal("conflict", message, "make a new key for what is another job")
            if not self._is_over(job):
                return job, self._lacks(job) if job.state == UPLOADING else []
        self._check_capacity()
        capabilities = self.scheduler.capabilities()
        if capabilities is not None:
            check_nodes_and_models(manifest, capabilities)
        if job is None:
            job = Job(str(uuid.uuid4()), owner, manifest["key"], manifest, blobs=names)
            self.journal.create(job)
        else:
            job = self._renew(job)
        self.metrics.accepted.inc()
        return job, self._queue_or_wait(job)

    def blob_arrived(self, name: str) -> None:
        """Queue the jobs that waited for this blob alone, and fail those that it does not fit."""
        for job_id in [job_id for job_id, names in self._missing.items() if name in names]:
            self._missing[job_id].discard(name)
            if not self._missing[job_id]:
                self._queue_or_wait(self.journal.get(job_id))

    async def delete(self, job: Job) -> None:
        """Cancel the job, or release the result of one that is done."""
        if job.state == UPLOADING:
            self._cancel_upload(job.id)
        elif job.state == DONE:
            self.journal.update(job.id, state=RELEASED)
            self._clear(job.id)
        elif job.state not in (FAILED, CANCELLED, RELEASED):
            await self.scheduler.cancel(job.id)

    def expire(self) -> None:
        """Release results that are too old, forget jobs twice as old, give up uploads that never ended."""
        now, keep = time.time(), self.settings.keep_hours * 3600
        for job_id in self.journal.expire(now - keep) + self.journal.forget(now - 2 * keep):
            self._clear(job_id)
        for job_id in self.journal.give_up_uploads(now - UPLOAD_SECONDS):
            self._cancel_upload(job_id)

    def _is_over(self, job: Job) -> bool:
        """Whether the job has nothing more to give and starts anew when it is sent again."""
        lost = job.state == DONE and not result_path(self.settings, job.id).is_file()
        return lost or job.state in (FAILED, CANCELLED, RELEASED)

    def _check_capacity(self) -> None:
        if self.stopping:
            raise Refusal("unavailable", "the endpoint is stopping", "run the job locally or elsewhere")
        workers = self.scheduler.health()["workers"]
        if workers and all(worker["state"] == "failed" for worker in workers):
            message = "no worker could be started; the endpoint's log says why"
            raise Refusal("unavailable", message, "run the job locally, and have the operator look")
        count = self.journal.count()
        if count[UPLOADING] + count[QUEUED] + count[RUNNING] >= self.settings.limits.queue:
            message = f"{self.settings.limits.queue} jobs are waiting already"
            raise Refusal("queue_full", message, "wait, or run the job locally", retry_after=10)

    def _renew(self, job: Job) -> Job:
        self._clear(job.id)
        fields = {"state": UPLOADING, "attempts": 0, "created": time.time(), "finished": None}
        self.journal.update(job.id, **fields, error=None, result=None)
        return self.journal.get(job.id)

    def _lacks(self, job: Job) -> list[str]:
        missing = self.blobs.missing(job.blobs)
        self._missing[job.id] = set(missing)
        return missing

    def _queue_or_wait(self, job: Job) -> list[str]:
        """Queue the job if it lacks no blob; return the names of those it lacks."""
        missing = self._lacks(job)
        if missing:
            return missing
        del self._missing[job.id]
        try:
            self._check_blobs(job.manifest)
        except Refusal as refusal:
            self.journal.update(job.id, state=FAILED, error=refusal.error())
            self.events.emit(job.id, "failed", refusal.error())
            job.state = FAILED
            return []
        self.journal.update(job.id, state=QUEUED)
        job.state = QUEUED
        self.scheduler.submit(job)
        return []

    def _check_blobs(self, manifest: dict[str, Any]) -> None:
        """Raise `Refusal` unless every blob is what the manifest says of it, everywhere."""
        for tensor in blob_places(manifest, self.settings.limits):
            check_header(tensor, self.blobs.header(tensor.blob))

    def _cancel_upload(self, job_id: str) -> None:
        self._missing.pop(job_id, None)
        self.journal.update(job_id, state=CANCELLED)
        self.events.emit(job_id, "cancelled", {})

    def _clear(self, job_id: str) -> None:
        """Remove what is left of a finished job besides its line in the journal."""
        self.events.drop(job_id)
        try:
            result_path(self.settings, job_id).unlink(missing_ok=True)
        except OSError as error:  # Windows: someone is still downloading it; the next expiry tries again
            log.warning("the result of job %s could not be deleted: %s", job_id, error)
