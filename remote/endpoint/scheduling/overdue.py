"""What takes too long or grows too large: late jobs are failed, hung workers killed, their logs begun anew."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from ..settings import Settings
from ..store.job import Job
from ..workers.run import Run
from ..workers.worker_slot import WorkerSlot

HUNG_CANCEL_SECONDS = 120.0  # a cancelled run that does nothing for so long has hung
REFRESH_SECONDS = 30.0  # between two looks at an idle worker's models, which also show that it is alive

OnOverdue = Callable[[WorkerSlot, Run, Job, float], None]  # the last is the deadline, in seconds after the start


async def watch(settings: Settings, slots: Sequence[WorkerSlot], on_overdue: OnOverdue) -> None:
    """Look after the runs of all slots about every second, for ever."""
    refreshed = time.monotonic()
    while True:
        await asyncio.sleep(min(1.0, settings.stall_seconds / 4))
        now = time.monotonic()
        for slot in slots:
            slot.worker.bound_log()
            for run in slot.runs[1:]:
                run.progressed = now  # it waits behind the first
            for run in slot.runs[:1]:
                for job, deadline in _overdue(settings.deadline_seconds, run, now):
                    on_overdue(slot, run, job, deadline)
                _kill_if_hung(settings.stall_seconds, slot, run, now)
        if now - refreshed > REFRESH_SECONDS:
            refreshed = now
            for slot in slots:
                slot.refresh()


def _overdue(most: float, run: Run, now: float) -> Iterator[tuple[Job, float]]:
    for job in run.live:
        deadline = min(job.manifest.get("deadline_seconds") or most, most)
        if run.started is not None and now - run.started > deadline:
            yield job, deadline


def _kill_if_hung(stall_seconds: float, slot: WorkerSlot, run: Run, now: float) -> None:
    limit = stall_seconds if run.cancelled is None else min(stall_seconds, HUNG_CANCEL_SECONDS)
    if now - max(run.progressed, run.cancelled or 0.0) > limit:
        slot.kill(f"the worker did nothing for {limit:g} s")
