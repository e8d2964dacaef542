"""What takes too long: jobs past their deadline are failed, workers that do nothing any more are killed."""

import asyncio
import time
from typing import TYPE_CHECKING

from ..workers.run import Run
from ..workers.worker_slot import WorkerSlot

if TYPE_CHECKING:
    from .scheduler import Scheduler

HUNG_CANCEL_SECONDS = 120.0  # a cancelled run that does nothing for so long has hung
REFRESH_SECONDS = 30.0  # between two looks at an idle worker's models, which also show that it is alive


async def watch(scheduler: "Scheduler") -> None:
    """Look after all runs about every second, for ever."""
    refreshed = time.monotonic()
    while True:
        await asyncio.sleep(min(1.0, scheduler.settings.stall_seconds / 4))
        now = time.monotonic()
        for slot in scheduler.slots:
            for run in slot.runs[1:]:
                run.progressed = now  # it waits behind the first
            for run in slot.runs[:1]:
                _end_overdue_jobs(scheduler, slot, run, now)
                _kill_if_hung(scheduler.settings.stall_seconds, slot, run, now)
        if now - refreshed > REFRESH_SECONDS:
            refreshed = now
            for slot in scheduler.slots:
                slot.refresh()


def _end_overdue_jobs(scheduler: "Scheduler", slot: WorkerSlot, run: Run, now: float) -> None:
    for job in run.live:
        deadline = job.manifest.get("deadline_seconds") or scheduler.settings.deadline_seconds
        if run.started is not None and now - run.started > deadline:
            scheduler.drop(slot, run, job)
            scheduler.endings.fail(
                job, "deadline", f"it was not done {deadline:g} s after its start", "allow it more time"
            )


def _kill_if_hung(stall_seconds: float, slot: WorkerSlot, run: Run, now: float) -> None:
    limit = stall_seconds if run.cancelled is None else min(stall_seconds, HUNG_CANCEL_SECONDS)
    if now - max(run.progressed, run.cancelled or 0.0) > limit:
        slot.kill(f"the worker did nothing for {limit:g} s")
