"""A place for a worker: keeps one running, starts it again when it dies or hangs, and holds the runs it was given."""

import asyncio
import errno
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any, Protocol

import aiohttp

from .run import Run
from .worker import Worker, WorkerError
from .worker_link import RefusedError, WorkerLink

log = logging.getLogger("velocity")

STARTING, READY, BUSY, FAILED = "starting", "ready", "busy", "failed"
MAX_FAILED_STARTS = 5
BACKOFF_SECONDS = 0.5  # doubles with every failed start
SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.ENOSPC})
CANCEL_AGAIN_SECONDS = 0.25
EXIT_SECONDS = 1.0
MAX_WARM = 8
MAX_HISTORY = 1 << 20  # bytes of ended prompts that the worker still knows, for whoever looks for a fault


class Owner(Protocol):
    """What a slot tells the scheduler."""

    def on_ready(self, slot: "WorkerSlot") -> None:
        """A worker can take runs."""

    def on_started(self, slot: "WorkerSlot") -> None:
        """A worker is up for the first time or again."""

    def on_event(self, slot: "WorkerSlot", run: Run, kind: str, data: Any) -> None:
        """Something happened to a run; the kinds are those of `WorkerLink`, and `refused`."""

    def on_lost(self, slot: "WorkerSlot", runs: list[Run], reason: str) -> None:
        """The worker is gone and its runs with it."""

    def on_given_up(self, slot: "WorkerSlot") -> None:
        """The worker can't be started; `slot.reason` says why."""


class WorkerSlot:
    """`runs` are at the worker: the first is running or about to, the others wait there. `warm` are model names."""

    def __init__(self, worker: Worker, owner: Owner) -> None:
        self.worker, self.owner = worker, owner
        self.runs: list[Run] = []
        self.warm: list[str] = []
        self.about: dict[str, Any] = {}
        self.reason = ""
        self.begun = time.monotonic()  # to start the worker
        self.link: WorkerLink | None = None
        self._state = STARTING
        self._end_reason: asyncio.Future[str] | None = None
        self._posting = asyncio.Lock()
        self._history: dict[str, int] = {}  # prompts at the worker, ended or not -> bytes; oldest first
        self._tasks: set[asyncio.Task] = set()

    @property
    def state(self) -> str:
        """`starting`, `ready`, `busy` or `failed`."""
        return BUSY if self._state == READY and self.runs else self._state

    @property
    def serves(self) -> bool:
        """Whether the worker takes runs."""
        return self._state == READY

    @property
    def failed(self) -> bool:
        """Whether no worker can be started here."""
        return self._state == FAILED

    async def live(self) -> None:
        """Keep a worker running until this is cancelled, or until it failed to start a few times in a row.

        Where this machine is short of something for now, that is tried for ever.
        """
        failures = 0
        try:
            while failures < MAX_FAILED_STARTS:
                self.begun = time.monotonic()
                try:
                    self.about = await self.worker.start()
                    failures = 0
                    await self._serve()
                except (WorkerError, OSError, aiohttp.ClientError) as error:
                    failures = min(failures + 1, MAX_FAILED_STARTS - 1 if _passes(error) else MAX_FAILED_STARTS)
                    self.reason = str(error)
                    log.warning("worker %d: %s", self.worker.number, error)
                await self._lose(served=not failures)
                if failures:
                    await asyncio.sleep(BACKOFF_SECONDS * 2**failures)
            self._state = FAILED
            self.owner.on_given_up(self)
        finally:
            await self._disconnect()
            await self.worker.kill()

    def give(self, run: Run, prompt: dict[str, Any], preview: bool) -> None:
        """Send a run to the worker, behind those it has."""
        self.runs.append(run)
        self._start(self._post(run, prompt, preview))

    def preload(self, name: str, prompt: dict[str, Any]) -> None:
        """Have the worker load the model `name` by this prompt, before any run that comes later."""
        self.used([name])
        self._start(self.link.post(str(uuid.uuid4()), prompt, False))

    def refresh(self) -> None:
        """Ask an idle worker again what it has: models may have been added."""
        if self.state == READY:
            self._start(self._refresh())

    def cancel(self, run: Run) -> None:
        """Stop a run at its next step, or before it begins; the worker is asked until it has stopped."""
        if run.cancelled is None:
            run.cancelled = time.monotonic()
            self._start(self._cancel(run))

    def kill(self, reason: str) -> None:
        """Have the worker killed and started again; its runs are lost."""
        if self._end_reason is not None and not self._end_reason.done():
            self._end_reason.set_result(reason)

    def forget_models(self) -> None:
        """Have the worker unload everything, as it ran out of memory."""
        self.warm.clear()
        self._start(self.link.free())

    def used(self, names: list[str]) -> None:
        """Remember that these models are loaded now."""
        self.warm = ([name for name in self.warm if name not in names] + names)[-MAX_WARM:]

    async def _serve(self) -> None:
        """Return when the worker has died, its connection ended or somebody called `kill`."""
        self._end_reason = asyncio.get_running_loop().create_future()
        self.link = WorkerLink(self.worker.url, self.worker.headers, self._on_event)
        await self.link.open()
        self._state, self.reason = READY, ""
        self.owner.on_started(self)
        self.owner.on_ready(self)
        waits = [asyncio.create_task(self.link.listen()), asyncio.create_task(self.worker.process.wait())]
        try:
            ended, _ = await asyncio.wait([*waits, self._end_reason], return_when=asyncio.FIRST_COMPLETED)
            if waits[0] in ended:  # a process that dies closes its connection first: let its exit code be told
                await asyncio.wait([waits[1]], timeout=EXIT_SECONDS)
        finally:
            for task in waits:
                task.cancel()
        listening = waits[0]
        if listening.done() and not listening.cancelled() and listening.exception() is not None:
            log.error("a message of the worker could not be handled", exc_info=listening.exception())
        code = self.worker.process.returncode
        self.kill(f"the worker ended with code {code}" if code is not None else "the worker closed its connection")
        self.reason = self._end_reason.result()

    async def _lose(self, served: bool) -> None:
        self._state, self.warm, self._history = STARTING, [], {}
        await self._disconnect()
        await self.worker.kill()
        runs, self.runs = self.runs, []
        for run in runs:
            run.end()
        if runs or served:  # what never served has been logged already
            self.owner.on_lost(self, runs, self.reason)

    async def _disconnect(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        if self.link is not None:
            await self.link.close()

    async def _post(self, run: Run, prompt: dict[str, Any], preview: bool) -> None:
        async with self._posting:
            if run.cancelled is not None:
                return self._remove(run, "interrupted", {})
            try:
                self._history[run.id] = await self.link.post(run.id, prompt, preview)
            except RefusedError as error:
                self._remove(run, "refused", str(error))

    async def _refresh(self) -> None:
        self.about = await self.link.about()
        self.owner.on_ready(self)

    async def _cancel(self, run: Run) -> None:
        while run in self.runs:
            async with self._posting:
                try:
                    found = await self.link.cancel(run.id)
                except asyncio.TimeoutError:  # busy loading; `overdue` decides when it hangs
                    found = ""
            if found == "queued" and run in self.runs:
                return self._remove(run, "interrupted", {})
            await asyncio.sleep(CANCEL_AGAIN_SECONDS)

    def _on_event(self, prompt_id: str, kind: str, data: Any) -> None:
        run = next((run for run in self.runs if run.id == prompt_id), None)
        if run is None:
            if kind == "error":
                log.warning("worker %d: %s", self.worker.number, data.get("exception_message"))
            return
        if kind in ("success", "error", "interrupted"):
            self._remove(run, kind, data)
        else:
            if kind == "start":
                self._forget_old()
            self.owner.on_event(self, run, kind, data)

    def _forget_old(self) -> None:
        """Bound what ComfyUI keeps of prompts; a prompt that begins shows that the ended ones are in its history."""
        waiting = {run.id for run in self.runs}
        ended = [prompt_id for prompt_id in self._history if prompt_id not in waiting]
        excess = sum(self._history[prompt_id] for prompt_id in ended) - MAX_HISTORY
        old = []
        for prompt_id in ended:
            if excess <= 0:
                break
            excess -= self._history.pop(prompt_id)
            old.append(prompt_id)
        if old:
            self._start(self.link.forget(old))

    def _remove(self, run: Run, kind: str, data: Any) -> None:
        self.runs.remove(run)
        run.end()
        self.owner.on_event(self, run, kind, data)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task) -> None:
        """A worker that does not answer is as good as dead."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, OSError)):
            self.kill(f"the worker does not answer ({type(error).__name__}: {error})")
        elif error is not None:
            log.error("worker %d: %s", self.worker.number, error, exc_info=error)


def _passes(error: Exception) -> bool:
    """Whether the machine lacks files, memory or room for the moment, which says nothing of the worker."""
    return isinstance(error, OSError) and error.errno in SHORT_OF
