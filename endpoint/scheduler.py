"""Decides which job runs where and when, and brings every job to its end: done, failed or cancelled."""

import asyncio
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from .admission import check_nodes_and_models
from .blobs import BlobStore
from .capabilities import capabilities, known_names
from .compose import compose, model_names
from .estimates import Estimates
from .events import EventLog
from .job import CANCELLED, DONE, FAILED, QUEUED, RUNNING, Job
from .journal import Journal
from .models import ModelHashes
from .refusal import Refusal
from .run import Run
from .settings import Settings
from .worker import Worker
from .worker_command import gpus
from .worker_slot import FAILED as SLOT_FAILED
from .worker_slot import STARTING, WorkerSlot

log = logging.getLogger("velocity")

MAX_ATTEMPTS = 2
AHEAD = 1  # prompts that wait in a worker's own queue, so that it never waits for us
HUNG_CANCEL_SECONDS = 120.0
"""A cancelled run that does nothing for so long has hung."""


class Scheduler:
    """One queue in front of all workers. Everything runs on the event loop."""

    def __init__(
        self, settings: Settings, journal: Journal, blobs: BlobStore, events: EventLog, metrics: Any = None
    ) -> None:
        self.settings, self.journal, self.blobs, self.events, self.metrics = settings, journal, blobs, events, metrics
        self.estimates = Estimates(journal)
        self.hashes = ModelHashes(journal)
        self.slots: list[WorkerSlot] = []
        self._waiting: list[Job] = []
        self._runs: dict[str, tuple[WorkerSlot, Run]] = {}  # by job, from its worker's queue to its end
        self._told: dict[str, int] = {}  # the position that each waiting job was told last
        self._capabilities: dict[str, Any] | None = None
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Start the workers; returns before they are ready."""
        devices: list[str | None] = list(await asyncio.to_thread(gpus))
        if "--cpu" in self.settings.comfyui_arguments or not devices:
            devices = [None]
        count = self.settings.workers or len(devices)
        for number in range(count):
            worker = Worker(number, self.settings, devices[number % len(devices)])
            self.slots.append(WorkerSlot(worker, self))
        self.hashes.start()
        for slot in self.slots:
            self._spawn(slot.live())
        self._spawn(self._watch())

    async def stop(self) -> None:
        """Kill the workers. Unfinished jobs stay in the journal."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.hashes.stop()

    def submit(self, job: Job) -> None:
        """Queue a job, unless its result is there already (the endpoint was killed before it said so)."""
        if self._result_path(job).is_file():
            self._spawn(self._finish_old(job))
            return
        if job.attempts >= MAX_ATTEMPTS:
            return self._fail(job, "worker_failed", f"it was started {job.attempts} times and never finished", AGAIN)
        self.journal.update(job.id, state=QUEUED)
        self._waiting.append(job)
        self._pump()

    async def cancel(self, job_id: str) -> None:
        """Cancel a job that waits or runs; its sampler stops at the next step. Others do nothing."""
        waiting = next((job for job in self._waiting if job.id == job_id), None)
        if waiting is not None:
            self._waiting.remove(waiting)
            self._end(waiting, CANCELLED, "cancelled", {})
        elif job_id in self._runs:
            slot, run = self._runs[job_id]
            job = next(job for job in run.jobs if job.id == job_id)
            self._drop(slot, run, job)
            self._end(job, CANCELLED, "cancelled", {})
        self._pump()

    def capabilities(self) -> dict[str, Any] | None:
        """Return what docs/protocol.md says of them; None while no worker has been ready."""
        if self._capabilities is None:
            return None
        warm = sorted({name for slot in self.slots for name in slot.warm})
        return {**self._capabilities, "warm": warm, "seconds_per_job": self.estimates.any_job()}

    def health(self) -> dict[str, Any]:
        """Return how many jobs wait and run, and the states of the workers."""
        running = sum(len(run.live) for slot in self.slots for run in slot.runs if run.started is not None)
        queued = len(self._waiting) + sum(
            len(run.live) for slot in self.slots for run in slot.runs if run.started is None
        )
        return {"queued": queued, "running": running, "workers": [{"state": slot.state} for slot in self.slots]}

    # What the slots tell.

    def on_ready(self, slot: WorkerSlot) -> None:
        """A worker can take runs."""
        self._capabilities = capabilities(slot.about, self.settings)
        self._pump()

    def on_event(self, slot: WorkerSlot, run: Run, kind: str, data: Any) -> None:
        """Something happened to a run."""
        if kind == "start":
            self._on_start(slot, run)
        elif kind == "progress":
            run.progress(data.get("nodes") or {})
        elif kind == "preview":
            run.preview(data)
        elif kind == "success":
            slot.used(_models(run.jobs))
            self._spawn(self._finish(slot, run))
        elif kind == "interrupted":
            self._discard(run)
        elif kind == "error":
            self._on_error(slot, run, data)
        elif kind == "refused":
            for job in run.live:
                self._fail(job, "execution_error", f"the worker's ComfyUI refuses the graph: {data}", GRAPH_WRONG)
        self._pump()

    def on_lost(self, slot: WorkerSlot, runs: list[Run], reason: str) -> None:
        """Run again what was lost, before all others, unless it was running for the second time."""
        log.warning("worker %d: %s; it is started again\n%s", slot.worker.number, reason, slot.worker.tail())
        again = []
        for run in runs:
            for job in run.live:
                self._runs.pop(job.id, None)
                if job.attempts >= MAX_ATTEMPTS:
                    self._fail(job, "worker_failed", f"{reason}. Its last lines:\n{slot.worker.tail()}", AGAIN)
                    continue
                if run.started is not None:
                    self.events.emit(job.id, "warning", {"message": f"{reason}; it is started again and so is the job"})
                self.journal.update(job.id, state=QUEUED)
                again.append(job)
            self._discard(run)
        self._waiting[:0] = again
        self._pump()

    def on_given_up(self, slot: WorkerSlot) -> None:
        """Fail everything when there is no worker left."""
        log.error("worker %d does not start: %s", slot.worker.number, slot.reason)
        if all(slot.state == SLOT_FAILED for slot in self.slots):
            self._pump()

    def _on_start(self, slot: WorkerSlot, run: Run) -> None:
        models = _models(run.jobs)
        run.begin(cold=not set(models) <= set(slot.warm))
        for job in run.live:
            job.attempts += 1
            self.journal.update(job.id, state=RUNNING, attempts=job.attempts)
            if run.cold:
                self.events.emit(job.id, "cold", {"seconds": self.estimates.load_seconds(job.manifest)})
            self.events.emit(job.id, "running", {"worker": slot.worker.number, "attempt": job.attempts})

    def _on_error(self, slot: WorkerSlot, run: Run, data: dict[str, Any]) -> None:
        kind, text = str(data.get("exception_type", "")), str(data.get("exception_message", "")).strip()
        next_step = GRAPH_WRONG
        if "OutOfMemory" in kind or "out of memory" in text.lower():
            slot.forget_models()
            next_step = "the endpoint is out of memory: make the latent or the batch smaller, or run it locally"
        for job in run.live:
            self._fail(job, "execution_error", f"{data.get('node_type')}: {kind.split('.')[-1]}: {text}", next_step)
        self._discard(run)

    # From the queue to the workers.

    def _pump(self) -> None:
        """Give waiting jobs to workers that have room, then tell the others their place."""
        if self.slots and all(slot.state == SLOT_FAILED for slot in self.slots):
            for job in self._waiting[:]:
                self._waiting.remove(job)
                self._fail(job, "worker_failed", f"no worker starts: {self.slots[0].reason}", OPERATOR)
        while self._waiting and (slot := self._slot_for(self._waiting[0])) is not None:
            job = self._waiting.pop(0)
            try:
                check_nodes_and_models(job.manifest, self._capabilities)
            except Refusal as refusal:
                self._end(job, FAILED, "failed", refusal.error())
                continue
            self._give(slot, [job])
        self._tell_positions()

    def _slot_for(self, job: Job) -> WorkerSlot | None:
        """Return the worker with the shortest queue, of equal ones one that has the job's models; None if all full."""
        names = set(model_names(job.manifest["graph"]))
        ahead = AHEAD if len(self.slots) == 1 else 0
        free = [slot for slot in self.slots if slot.state not in (STARTING, SLOT_FAILED) and len(slot.runs) <= ahead]
        return min(free, key=lambda slot: (len(slot.runs), not names <= set(slot.warm)), default=None)

    def _give(self, slot: WorkerSlot, jobs: list[Job]) -> None:
        run = Run(jobs, self.events)
        for job in jobs:
            self._runs[job.id] = (slot, run)
        job = jobs[0]
        prompt = compose(job.manifest, run.result_name(job), job.blobs, known_names(slot.about))
        self._tell(job, sum(len(other.live) for other in slot.runs))
        slot.give(run, prompt, any(job.manifest.get("preview", True) for job in jobs))

    def _tell_positions(self) -> None:
        """Tell each waiting job how many are before it, if that has changed."""
        before = sum(len(run.live) for slot in self.slots for run in slot.runs)
        for place, job in enumerate(self._waiting):
            self._tell(job, before + place)

    def _tell(self, job: Job, position: int) -> None:
        if self._told.get(job.id) != position:
            self._told[job.id] = position
            per_job = self.estimates.job_seconds(job.manifest)
            ready = max(1, sum(slot.state not in (STARTING, SLOT_FAILED) for slot in self.slots))
            seconds = None if per_job is None else round(position * per_job / ready, 1)
            self.events.emit(job.id, "queued", {"position": position, "seconds": seconds})

    # From the workers to the end.

    async def _finish(self, slot: WorkerSlot, run: Run) -> None:
        seconds = time.monotonic() - run.started
        load = run.load_seconds() if run.cold else None
        for job in run.live:
            written = self._result_path(job).with_name(f"{run.result_name(job)}.bin")
            result = await asyncio.to_thread(_describe_file, written)
            if job.id in run.dropped:
                continue
            os.replace(written, self._result_path(job))
            models = self.hashes.of(model_names(job.manifest["graph"]), slot.about)
            result |= {"seconds": seconds, "load_seconds": load or 0.0, "steps": run.max, "batched": len(run.jobs)}
            self._end(job, DONE, "done", result | {"fingerprint": slot.about["fingerprint"], "models": models})
        if run.max:
            self.estimates.record(run.jobs[0].manifest, seconds, load, len(run.jobs))
        self._discard(run)

    async def _finish_old(self, job: Job) -> None:
        result = await asyncio.to_thread(_describe_file, self._result_path(job))
        result |= {"seconds": 0.0, "load_seconds": 0.0, "steps": 0, "batched": 1, "fingerprint": {}, "models": {}}
        self._end(job, DONE, "done", result)

    def _fail(self, job: Job, code: str, message: str, next_step: str) -> None:
        self._end(job, FAILED, "failed", {"code": code, "message": message, "next": next_step})

    def _end(self, job: Job, state: str, kind: str, data: dict[str, Any]) -> None:
        self._runs.pop(job.id, None)
        self._told.pop(job.id, None)
        self.journal.update(job.id, state=state, **{DONE: {"result": data}, FAILED: {"error": data}}.get(state, {}))
        self.events.emit(job.id, kind, data)

    def _drop(self, slot: WorkerSlot, run: Run, job: Job) -> None:
        """A job leaves its run; a run that nobody wants any more is stopped."""
        run.dropped.add(job.id)
        if not run.live:
            slot.cancel(run)

    def _discard(self, run: Run) -> None:
        """Delete what a run has written for jobs that did not want it any more."""
        for job in run.jobs:
            self._result_path(job).with_name(f"{run.result_name(job)}.bin").unlink(missing_ok=True)

    def _result_path(self, job: Job) -> Path:
        return self.settings.results / f"{job.id}.bin"

    async def _watch(self) -> None:
        """Stop what takes too long, and kill workers that hang."""
        while True:
            await asyncio.sleep(min(1.0, self.settings.stall_seconds / 4))
            now = time.monotonic()
            for slot in self.slots:
                for run in slot.runs:
                    if run.started is None:
                        continue
                    for job in run.live:
                        deadline = job.manifest.get("deadline_seconds") or self.settings.deadline_seconds
                        if now - run.started > deadline:
                            self._drop(slot, run, job)
                            self._fail(job, "deadline", f"it was not done after {deadline:g} s", "allow more time")
                    limit = self.settings.stall_seconds
                    if run.cancelled is not None:
                        limit = min(limit, HUNG_CANCEL_SECONDS)
                    if now - max(run.progressed, run.cancelled or 0.0) > limit:
                        slot.kill(f"the worker did nothing for {limit:g} s")

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the scheduler has a defect", exc_info=task.exception())


AGAIN = "run it again or locally; if it happens again, the endpoint's log says more"
GRAPH_WRONG = "the node failed on the endpoint as it would have here: change its inputs, or run it locally"
OPERATOR = "the operator finds the reason in the endpoint's log"


def _models(jobs: list[Job]) -> list[str]:
    return model_names(jobs[0].manifest["graph"])


def _describe_file(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}
