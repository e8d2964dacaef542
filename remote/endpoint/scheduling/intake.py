"""What is promised for a job before it is queued and after its end: submission, missing blobs, release, expiry."""

import time
import uuid
from dataclasses import dataclass
from typing import Any

from ..admission.admission import admit, blob_places, check_nodes_and_models
from ..admission.packed import check_header
from ..admission.refusal import Refusal, error_of
from ..admission.shares import Shares
from ..settings import GIGABYTE, Settings
from ..store.blobs import BlobStore
from ..store.events import EventLog
from ..store.job import CANCELLED, DONE, FAILED, QUEUED, RELEASED, RUNNING, UPLOADING, Job
from ..store.journal import Journal, manifest_hash
from ..store.metrics import Metrics
from ..store.results import Results
from .scheduler import Scheduler
from .uploads import Uploads

UPLOAD_SECONDS = 300.0  # after the last byte of a job's blobs; then those that are missing are not waited for any more
RETRY_SECONDS = 10  # where nobody knows how long jobs take


@dataclass
class _Upload:
    owner: str
    missing: set[str]  # names of blobs that have not come
    heard: float  # when something of the job came last, monotonic


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
        shares: Shares,
    ) -> None:
        self.settings, self.journal, self.blobs, self.events = settings, journal, blobs, events
        self.scheduler, self.metrics = scheduler, metrics
        self.shares, self.uploads = shares, Uploads(blobs, journal, shares)
        most = settings.result_gigabytes * GIGABYTE
        self.results = Results(settings.results, int(most), shares.of(most))
        self.stopping = False
        self._uploading: dict[str, _Upload] = {}  # by job id
        scheduler.on_done = self._on_done

    def resume(self) -> None:
        """Take up the jobs that an earlier run of the endpoint accepted and did not finish, and its results."""
        for job_id, owner in self.journal.done():
            self._release(self.results.add(job_id, owner))
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
            if manifest_hash(job.manifest) != manifest_hash(manifest):
                message = "another manifest was sent under this idempotency key"
                raise Refusal("conflict", message, "make a new key for what is another job")
            if not self._is_over(job):
                return job, self._lacks(job) if job.state == UPLOADING else []
        self._check_capacity(owner)
        capabilities = self.scheduler.capabilities()
        if capabilities is not None:
            check_nodes_and_models(manifest, capabilities)
        if job is None:
            job = Job(str(uuid.uuid4()), owner, manifest["key"], manifest, blobs=names)
            self.journal.create(job)
        else:
            job = self._renew(job, manifest, names)
        self.metrics.accepted.inc()
        return job, self._queue_or_wait(job)

    def blob_arrived(self, owner: str, name: str) -> None:
        """Queue the key's jobs that waited for this blob alone, and fail those that it does not fit."""
        for job_id, upload in list(self._uploading.items()):
            if upload.owner == owner and name in upload.missing:
                upload.missing.discard(name)
                upload.heard = time.monotonic()
                if not upload.missing:
                    self._queue_or_wait(self.journal.get(job_id))

    async def delete(self, job: Job) -> None:
        """Cancel the job, or release the result of one that is done."""
        if job.state == UPLOADING:
            self._uploading.pop(job.id, None)
            self.journal.update(job.id, state=CANCELLED)
            self.events.emit(job.id, "cancelled", {})
        elif job.state == DONE:
            self._release([job.id])
        elif job.state not in (FAILED, CANCELLED, RELEASED):
            await self.scheduler.cancel(job.id)

    def expire(self) -> None:
        """Release results that are too old, forget jobs twice as old, give up uploads that have stopped."""
        now, keep = time.time(), self.settings.keep_hours * 3600
        for job_id in self.journal.expire(now - keep) + self.journal.forget(now - 2 * keep):
            self._clear(job_id)
        stopped = time.monotonic() - UPLOAD_SECONDS
        for job_id, upload in list(self._uploading.items()):
            if max(upload.heard, self.uploads.heard(upload.owner, upload.missing)) < stopped:
                self._give_up(job_id, len(upload.missing))
        self.uploads.tidy(stopped)
        self.journal.shrink()

    def _is_over(self, job: Job) -> bool:
        """Whether the job has nothing more to give and starts anew when it is sent again."""
        lost = job.state == DONE and not self.results.is_there(job.id)
        return lost or job.state in (FAILED, CANCELLED, RELEASED)

    def _check_capacity(self, owner: str) -> None:
        if self.stopping:
            raise Refusal("unavailable", "the endpoint is stopping", "run the job locally or elsewhere")
        workers = self.scheduler.health()["workers"]
        if workers and all(worker["state"] == "failed" for worker in workers):
            message = "no worker could be started; the endpoint's log says why"
            raise Refusal("unavailable", message, "run the job locally, and have the operator look")
        limits, count, (own, uploading) = self.settings.limits, self.journal.count(), self.journal.count_of(owner)
        share = self.shares.of(limits.queue)
        if count[UPLOADING] + count[QUEUED] + count[RUNNING] >= limits.queue:
            raise _full(f"{limits.queue} jobs are waiting already", "wait, or run the job locally", self._next_end())
        if own >= share:
            message = f"{own} jobs of this key are waiting already, its share of the queue"
            raise _full(message, self.shares.next_step("--max-queue"), self._next_end())
        if uploading >= limits.uploads:
            message = f"{uploading} jobs of this key wait for tensors that have not come"
            next_step = "send those, cancel the jobs, or have the operator raise --max-uploads"
            raise _full(message, next_step, RETRY_SECONDS)

    def _next_end(self) -> int:
        """Return after how many seconds a place in the queue will be free, about."""
        seconds = self.scheduler.seconds_to_next_end()
        return RETRY_SECONDS if seconds is None else int(seconds) + 1

    def _renew(self, job: Job, manifest: dict[str, Any], names: list[str]) -> Job:
        self._clear(job.id)
        fields = {"state": UPLOADING, "attempts": 0, "created": time.time(), "finished": None}
        self.journal.update(job.id, **fields, error=None, result=None, manifest=manifest, blobs=names)
        return self.journal.get(job.id)

    def _lacks(self, job: Job) -> list[str]:
        missing = self.uploads.missing(job.owner, job.blobs)
        self._uploading[job.id] = _Upload(job.owner, set(missing), time.monotonic())
        return missing

    def _queue_or_wait(self, job: Job) -> list[str]:
        """Queue the job if it lacks no blob; return the names of those it lacks."""
        missing = self._lacks(job)
        if missing:
            return missing
        del self._uploading[job.id]
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

    def _give_up(self, job_id: str, missing: int) -> None:
        """End a job whose blobs have stopped to come; a client that is still there submits it again by this code."""
        del self._uploading[job_id]
        message = f"{missing} of the job's tensors have not come, and nothing of them for {UPLOAD_SECONDS:.0f} s"
        error = error_of("gone", message, "submit the job again")
        self.journal.update(job_id, state=FAILED, error=error)
        self.events.emit(job_id, "failed", error)

    def _on_done(self, job: Job) -> None:
        """Count a result, and release older ones where there are too many."""
        self._release(self.results.add(job.id, job.owner))

    def _release(self, job_ids: list[str]) -> None:
        for job_id in job_ids:
            self.journal.update(job_id, state=RELEASED)
            self._clear(job_id)

    def _clear(self, job_id: str) -> None:
        """Remove what is left of a finished job besides its line in the journal."""
        self.events.drop(job_id)
        self.results.remove(job_id)


def _full(message: str, next_step: str, retry_after: int) -> Refusal:
    return Refusal("queue_full", message, next_step, retry_after)
