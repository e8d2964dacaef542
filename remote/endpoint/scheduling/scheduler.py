"""Decides which job runs where and when, and has every job come to an end: done, failed or cancelled."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from ...wire.model_names import model_names
from ..admission.admission import check_nodes_and_models
from ..admission.capabilities import capabilities, find_model, known_names, unknown_allowed
from ..admission.refusal import Refusal
from ..settings import Settings
from ..store.blobs import BlobStore
from ..store.estimates import Estimates
from ..store.events import EventLog
from ..store.job import CANCELLED, FAILED, QUEUED, RUNNING, Job
from ..store.journal import Journal
from ..store.metrics import Metrics
from ..workers.compose import compose
from ..workers.run import Run
from ..workers.worker import Worker
from ..workers.worker_command import gpus
from ..workers.worker_slot import WorkerSlot
from .batching import compose_batch
from .endings import AGAIN, Endings
from .job_queue import JobQueue
from .overdue import watch
from .warm_up import FileReader, preload_prompt

log = logging.getLogger("velocity")

MAX_ATTEMPTS = 2
AHEAD = 1  # prompts that wait in a lone worker's own queue, so that it never waits for us
GRAPH_WRONG = "change the node's inputs, or run it locally"
OUT_OF_MEMORY = "the endpoint is out of memory: make the latent or the batch smaller, or run it locally"
NO_DISK = (
    "the endpoint's results folder cannot be written, perhaps its disk is full: run it locally, and tell the operator"
)
NO_MEMORY = ("outofmemory", "out of memory", "memoryerror", "t allocate memory", "not enough memory", "bad_alloc")


class Scheduler:
    """One queue in front of all workers. Everything runs on the event loop."""

    def __init__(
        self, settings: Settings, journal: Journal, blobs: BlobStore, events: EventLog, metrics: Metrics
    ) -> None:
        self.settings, self.journal, self.events, self.metrics = settings, journal, events, metrics
        self.estimates = Estimates(journal)
        self.on_done: Callable[[Job], None] = lambda job: None  # a job has a result now
        self.endings = Endings(
            settings, journal, events, metrics, self.estimates, self._forget, lambda job: self.on_done(job)
        )
        self.slots: list[WorkerSlot] = []
        self._queue = JobQueue(events, self.estimates)
        self._runs: dict[str, tuple[WorkerSlot, Run]] = {}  # by job, until it ends
        self._capabilities: dict[str, Any] | None = None
        self._reader = FileReader()
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Start the workers; returns before they are ready."""
        self.endings.discard_leftovers()
        devices: list[str | None] = list(await asyncio.to_thread(gpus))
        if "--cpu" in self.settings.comfyui_arguments or not devices:
            devices = [None]
        for number in range(self.settings.workers or len(devices)):
            worker = Worker(number, self.settings, devices[number % len(devices)])
            self.slots.append(WorkerSlot(worker, self))
        overdue = watch(self.settings, self.slots, self._on_overdue)
        for work in (self.endings.hashes.work(), overdue, *(slot.live() for slot in self.slots)):
            self._spawn(work)

    async def stop(self) -> None:
        """Kill the workers. Unfinished jobs stay in the journal, as if those that ran had not begun."""
        self._reader.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, run in self._runs.values():
            for job in run.live if run.started is not None else ():
                self.journal.update(job.id, state=QUEUED, attempts=job.attempts - 1)

    def submit(self, job: Job) -> None:
        """Queue a job, unless its result is there already (the endpoint was killed before it said so)."""
        if self.endings.result_path(job).is_file():
            self._spawn(self.endings.finish_old(job))
        elif job.attempts >= MAX_ATTEMPTS:
            self.endings.fail(job, "worker_failed", f"it was begun {job.attempts} times and never ended", AGAIN)
        elif job.id not in self._runs and job.id not in self._queue:
            self.journal.update(job.id, state=QUEUED)
            self._queue.add(job)
            self._pump()

    async def cancel(self, job_id: str) -> None:
        """Cancel a job that waits or runs; its sampler stops at the next step. Others are left as they are."""
        job = self._queue.take(job_id)
        if job_id in self._runs:
            slot, run = self._runs[job_id]
            job = next(job for job in run.jobs if job.id == job_id)
            self._drop(slot, run, job)
        if job is not None:
            self.endings.end(job, CANCELLED, {})
            self._pump()

    def capabilities(self) -> dict[str, Any] | None:
        """Return what docs/protocol.md says of them; None while no worker has been ready."""
        if self._capabilities is None:
            return None
        warm = sorted({name for slot in self.slots for name in slot.warm})
        return {**self._capabilities, "warm": warm, "seconds_per_job": self.estimates.any_job()}

    def seconds_to_next_end(self) -> float | None:
        """Return about how long it takes until a job ends, None if no job has run yet."""
        per_job = self.estimates.any_job()
        return None if per_job is None else per_job / max(1, self._serving())

    def health(self) -> dict[str, Any]:
        """Return how many jobs wait and run, the states of the workers, and how long it takes until one can run
        something: None if one can, or none ever will."""
        runs = [run for slot in self.slots for run in slot.runs]
        running = sum(len(run.live) for run in runs if run.started is not None)
        queued = len(self._queue.jobs) + sum(len(run.live) for run in runs if run.started is None)
        states = [{"state": slot.state} for slot in self.slots]
        return {"queued": queued, "running": running, "workers": states, "starting_seconds": self._starting_seconds()}

    def _starting_seconds(self) -> float | None:
        starting = [slot for slot in self.slots if not slot.failed]
        if not starting or any(slot.serves for slot in starting):
            return None
        elapsed = time.monotonic() - min(slot.begun for slot in starting)
        return max(self.estimates.start_seconds() - elapsed, 1.0)

    # What the slots tell.

    def on_ready(self, slot: WorkerSlot) -> None:
        """A worker can take runs, or has looked again at what it has."""
        self._capabilities = capabilities(slot.about, self.settings)
        self._pump()

    def on_started(self, slot: WorkerSlot) -> None:
        """A worker has just been started: it loads what the operator wants to be warm."""
        self.estimates.record_start(time.monotonic() - slot.begun)
        unknown = unknown_allowed(slot.about, self.settings)
        if unknown:
            log.warning("--allow names nodes that the worker's ComfyUI does not have: %s", ", ".join(unknown))
        for name in self.settings.preload:
            prompt = preload_prompt(name, slot.about)
            if prompt is not None:
                slot.preload(name, prompt)

    def on_event(self, slot: WorkerSlot, run: Run, kind: str, data: Any) -> None:
        """Something happened to a run."""
        if kind == "start":
            self._on_start(slot, run)
        elif kind == "progress":
            run.progress(data.get("nodes") or {})
        elif kind == "preview":
            run.preview(data)
        else:
            self._on_end(slot, run, kind, data)
            self._pump()

    def on_lost(self, slot: WorkerSlot, runs: list[Run], reason: str) -> None:
        """Run again what was lost, before all others, unless it was running for the second time.

        What the worker printed last is for the operator alone: it may be about anybody's job.
        """
        log.warning(
            "worker %d: %s; it is started again. It ran %s. Its last lines:\n%s",
            slot.worker.number,
            reason,
            ", ".join(job.id for run in runs for job in run.live) or "nothing",
            slot.worker.tail(),
        )
        self.metrics.restarts.inc()
        for run in reversed(runs):
            failed = f"{reason}, for the second time; the endpoint's log has what it printed last"
            self._again(run, failed, f"{reason}; it is started again and so is the job")
        self._pump()

    def on_given_up(self, slot: WorkerSlot) -> None:
        """A worker can't be started."""
        log.error("worker %d is given up: %s", slot.worker.number, slot.reason)
        self._pump()

    def _on_overdue(self, slot: WorkerSlot, run: Run, job: Job, deadline: float) -> None:
        self._drop(slot, run, job)
        self.endings.fail(job, "deadline", f"it was not done {deadline:g} s after its start", "allow it more time")

    def _drop(self, slot: WorkerSlot, run: Run, job: Job) -> None:
        """Take a job from its run; a run without jobs is stopped."""
        run.dropped.add(job.id)
        if not run.live:
            slot.cancel(run)

    def _on_start(self, slot: WorkerSlot, run: Run) -> None:
        run.begin(cold=not set(_models(run.jobs[0])) <= set(slot.warm))
        for job in run.live:
            job.attempts += 1
            self.journal.update(job.id, state=RUNNING, attempts=job.attempts)
            if run.cold:
                self.events.emit(job.id, "cold", {"seconds": self.estimates.load_seconds(job.manifest)})
            self.events.emit(job.id, "running", {"worker": slot.worker.number, "attempt": job.attempts})
            self.metrics.seconds_queued.observe(run.waited(job))
        self._read_ahead(slot, run)

    def _on_end(self, slot: WorkerSlot, run: Run, kind: str, data: Any) -> None:
        if kind == "success":
            slot.used(_models(run.jobs[0]))
            self._spawn(self.endings.finish(run, slot.about))
            return
        code, message, next_step = "execution_error", "somebody interrupted it at the worker", AGAIN
        if kind == "refused":
            message, next_step = f"the worker's ComfyUI refuses the graph: {data}", GRAPH_WRONG
        elif kind == "error":
            message, next_step = _error(data)
        if next_step == OUT_OF_MEMORY:
            slot.forget_models()
        if len(run.jobs) > 1 and kind != "interrupted":
            return self._again(run, message, "its batch failed, and it runs again alone")
        for job in run.live:
            self.endings.fail(job, code, message, next_step)
        self.endings.discard(run)

    def _again(self, run: Run, reason: str, warning: str) -> None:
        """Put the jobs of a lost run back to the front of the queue; those that were begun twice fail."""
        again = []
        for job in run.live:
            self._forget(job)
            if job.attempts >= MAX_ATTEMPTS:
                self.endings.fail(job, "worker_failed", reason, AGAIN)
                continue
            if run.started is not None:
                self._queue.keep_alone(job)
                self.events.emit(job.id, "warning", {"message": warning})
            self.journal.update(job.id, state=QUEUED)
            again.append(job)
        self._queue.put_back(again)
        self.endings.discard(run)

    # From the queue to the workers.

    def _pump(self) -> None:
        """Give waiting jobs to workers that have room, then tell the others their place."""
        while self._queue.jobs and self.slots and all(slot.failed for slot in self.slots):
            job = self._queue.jobs.pop(0)
            self.endings.fail(job, "worker_failed", f"no worker starts: {self.slots[0].reason}", AGAIN)
        while self._queue.jobs and (slot := self._slot_for(self._queue.jobs[0])) is not None:
            jobs = self._queue.take_next()
            try:
                check_nodes_and_models(jobs[0].manifest, self._capabilities)
            except Refusal as refusal:
                for job in jobs:
                    self.endings.end(job, FAILED, refusal.error())
            else:
                self._give(slot, jobs)
        self._queue.tell_all(sum(len(run.live) for slot in self.slots for run in slot.runs), self._serving())

    def _slot_for(self, job: Job) -> WorkerSlot | None:
        """Return the worker with the shortest queue, of equal ones one that has the job's models; None if all full."""
        names = set(_models(job))
        ahead = AHEAD if len(self.slots) == 1 else 0
        free = [slot for slot in self.slots if slot.serves and len(slot.runs) <= ahead]
        return min(free, key=lambda slot: (len(slot.runs), not names <= set(slot.warm)), default=None)

    def _give(self, slot: WorkerSlot, jobs: list[Job]) -> None:
        before = sum(len(other.live) for other in slot.runs)
        run, names = Run(jobs, self.events), known_names(slot.about)
        for job in jobs:
            self._runs[job.id] = (slot, run)
            self._queue.tell(job, before, self._serving())
        if len(jobs) > 1:
            prompt = compose_batch(run, names)
        else:
            prompt = compose(jobs[0].manifest, run.result_name(jobs[0]), jobs[0].blobs, names)
        slot.give(run, prompt, any(job.manifest.get("preview", True) for job in jobs))

    def _serving(self) -> int:
        return sum(slot.serves for slot in self.slots)

    def _read_ahead(self, slot: WorkerSlot, run: Run) -> None:
        """Have the files of the next job read from the disk while this run computes."""
        others = [other.jobs[0] for other in slot.runs if other is not run]
        for name in (
            name for job in [*others, *self._queue.jobs][:1] for name in _models(job) if name not in slot.warm
        ):
            place = find_model(slot.about, name)
            if place is not None and name not in _models(run.jobs[0]):
                self._reader.read(place[1])

    def _forget(self, job: Job) -> None:
        self._runs.pop(job.id, None)
        self._queue.forget(job)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the scheduler has a defect", exc_info=task.exception())


def _models(job: Job) -> list[str]:
    return model_names(job.manifest["graph"])


def _error(data: dict[str, Any]) -> tuple[str, str]:
    """Return the message for an exception in a node, and what to do next."""
    kind, text = str(data.get("exception_type", "")), str(data.get("exception_message", "")).strip()[:2000]
    message = f"{data.get('node_type')}: {kind.split('.')[-1]}: {text}"
    if any(phrase in message.lower() for phrase in NO_MEMORY):  # torch's words differ from device to device
        return message, OUT_OF_MEMORY
    return message, NO_DISK if data.get("node_type") == "VelocityReturn" and kind == "OSError" else GRAPH_WRONG
