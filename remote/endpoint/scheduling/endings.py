"""How jobs end: done with a result file, failed with an error, cancelled."""

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...wire.model_names import model_names
from ..admission.refusal import error_of
from ..settings import Settings
from ..store.estimates import Estimates
from ..store.events import EventLog
from ..store.job import CANCELLED, DONE, FAILED, Job
from ..store.journal import Journal
from ..store.metrics import Metrics
from ..workers.run import Run
from .models import ModelHashes

log = logging.getLogger("velocity")

AGAIN = "run it again, or locally; if it happens again, the endpoint's log says more"
_KINDS = {DONE: "done", FAILED: "failed", CANCELLED: "cancelled"}


class Endings:
    """Writes the end of a job into the journal and tells its followers; `on_end` is called before, and `on_done`
    after that of a job with a result."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        events: EventLog,
        metrics: Metrics,
        estimates: Estimates,
        on_end: Callable[[Job], None],
        on_done: Callable[[Job], None],
    ) -> None:
        self.on_end, self.on_done = on_end, on_done
        self.settings, self.journal, self.events, self.metrics = settings, journal, events, metrics
        self.estimates, self.hashes = estimates, ModelHashes(journal)

    def end(self, job: Job, state: str, data: dict[str, Any]) -> None:
        """End a job; `data` is its result or its error."""
        self.on_end(job)
        self.journal.update(job.id, state=state, **{DONE: {"result": data}, FAILED: {"error": data}}.get(state, {}))
        self.metrics.finished.labels(state).inc()
        self.events.emit(job.id, _KINDS[state], data)
        if state == DONE:
            self.on_done(job)

    def fail(self, job: Job, code: str, message: str, next_step: str) -> None:
        """End a job with an error of docs/protocol.md."""
        error = error_of(code, message, next_step)
        log.warning("job %s failed: %s", job.id, error["message"])
        self.end(job, FAILED, error)

    async def finish(self, run: Run, about: dict[str, Any]) -> None:
        """End the jobs of a run that succeeded; `about` is what its worker said of itself."""
        seconds = time.monotonic() - run.started
        load = run.load_seconds() if run.cold else None
        for job in run.live:
            written = self._written(run, job)
            try:
                result = await asyncio.to_thread(_describe_file, written)
                if job.id in run.dropped:
                    continue
                os.replace(written, self.result_path(job))
            except OSError as error:
                self.fail(job, "worker_failed", f"the worker left no result: {error}", AGAIN)
                continue
            models = self.hashes.of(model_names(job.manifest["graph"]), about)
            result |= {"seconds": seconds, "load_seconds": load or 0.0, "steps": run.max, "batched": len(run.jobs)}
            self.end(job, DONE, result | {"fingerprint": about["fingerprint"], "models": models})
        self.metrics.seconds_running.observe(seconds)
        if run.max:
            self.estimates.record(run.jobs[0].manifest, seconds, load, len(run.jobs))
        self.discard(run)

    async def finish_old(self, job: Job) -> None:
        """End a job whose result was there when the endpoint started: it was killed before it could say so."""
        result = await asyncio.to_thread(_describe_file, self.result_path(job))
        result |= {"seconds": 0.0, "load_seconds": 0.0, "steps": 0, "batched": 1}
        models = dict.fromkeys(model_names(job.manifest["graph"]))  # nobody knows any more what made it
        self.end(job, DONE, result | {"fingerprint": {}, "models": models})

    def discard(self, run: Run) -> None:
        """Delete what a run has written for jobs that did not want it any more."""
        for job in run.jobs:
            self._written(run, job).unlink(missing_ok=True)

    def discard_leftovers(self) -> None:
        """Delete what runs had written when the endpoint was killed. Result files have one dot in their names."""
        for path in self.settings.results.glob("*.*.*"):
            path.unlink()

    def result_path(self, job: Job) -> Path:
        """Return the result file of a job."""
        return self.settings.results / f"{job.id}.bin"

    def _written(self, run: Run, job: Job) -> Path:
        return self.settings.results / f"{run.result_name(job)}.bin"


def _describe_file(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}
