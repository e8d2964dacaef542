"""One prompt at a worker: the jobs it computes, how far it is, what its followers hear."""

import asyncio
import base64
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ..store.events import EventLog
from ..store.job import Job
from .compose import GRAPH

PREVIEW_SECONDS = 0.2  # between two previews


@dataclass
class Run:
    """`id` is ComfyUI's prompt id, new for each run, so that nothing that a former run of a job does is taken for
    this one's. Times are of the monotonic clock."""

    jobs: list[Job]
    events: EventLog
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    started: float | None = None
    cold: bool = False
    progressed: float = field(default_factory=time.monotonic)  # when something last happened
    node: str = ""  # of the job's graph, whose step the following is
    value: int = 0
    max: int = 0
    # Of the first node that counts steps, when the first and the last report came, and of which step.
    first_step: tuple[str, float, int] | None = None
    last_step: tuple[float, int] = (0.0, 0)
    dropped: set[str] = field(default_factory=set)  # jobs whose result nobody wants any more
    cancelled: float | None = None  # when the worker was first asked to stop
    _preview_time: float = 0.0
    _preview: bytes | None = None
    _timer: asyncio.TimerHandle | None = None

    @property
    def live(self) -> list[Job]:
        """The jobs that still wait for this run."""
        return [job for job in self.jobs if job.id not in self.dropped]

    def result_name(self, job: Job) -> str:
        """Return the name of the file that the worker writes for this job, without `.bin`."""
        return f"{job.id}.{self.id}" if len(self.jobs) == 1 else f"{job.id}.{self.id}.{self.jobs.index(job)}"

    def begin(self, cold: bool) -> None:
        """The worker has begun."""
        self.started = self.progressed = time.monotonic()
        self.cold = cold

    def progress(self, nodes: dict[str, dict[str, Any]]) -> None:
        """Take in ComfyUI's progress of all nodes, and tell the step of the one that runs."""
        self.progressed = time.monotonic()
        found = _counting(nodes, GRAPH + self.jobs[0].manifest["output"][0])
        if found is None:
            return
        node, value, maximum = _name(found), int(found["value"]), int(found["max"])
        if (node, value, maximum) == (self.node, self.value, self.max) or value < 1:
            return
        self.node, self.value, self.max = node, value, maximum
        if self.first_step is None:
            self.first_step = (node, self.progressed, value)
        if node == self.first_step[0]:
            self.last_step = (self.progressed, value)
        self.emit("step", {"value": value, "max": maximum, "node": node})

    def preview(self, picture: bytes) -> None:
        """Tell of a picture, at most one in `PREVIEW_SECONDS`; the newest wins."""
        self._preview = picture
        wait = self._preview_time + PREVIEW_SECONDS - time.monotonic()
        if wait <= 0:
            self._send_preview()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._send_preview)

    def end(self) -> None:
        """Nothing more comes."""
        if self._timer is not None:
            self._timer.cancel()

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """Tell the followers of every live job."""
        for job in self.live:
            self.events.emit(job.id, kind, data)

    def waited(self, job: Job) -> float:
        """Return the seconds from the job's acceptance until now."""
        return max(0.0, time.time() - job.created)

    def load_seconds(self) -> float | None:
        """Return the seconds before the first step began, judged by how long the later ones took; None if unknown."""
        if self.first_step is None or self.started is None:
            return None
        _, when, value = self.first_step
        last, last_value = self.last_step
        per_step = (last - when) / (last_value - value) if last_value > value else 0.0
        return max(0.0, when - self.started - per_step * value)

    def _send_preview(self) -> None:
        self._timer, self._preview_time = None, time.monotonic()
        text = base64.b64encode(self._preview).decode("ascii")
        for job in self.live:
            if job.manifest.get("preview", True):
                self.events.emit(job.id, "preview", {"jpeg": text, "value": self.value})


def _counting(nodes: dict[str, dict[str, Any]], wanted: str) -> dict[str, Any] | None:
    """Return the progress of the node `wanted` (or what it expanded to), else of any node that counts steps."""
    counting = [node for node in nodes.values() if node.get("max", 0) > 1]
    own = [node for node in counting if wanted in (node.get("node_id"), node.get("display_node_id"))]
    running = [node for node in counting if node.get("state") == "running"]
    return next(iter(own or running), None)


def _name(progress: dict[str, Any]) -> str:
    """Return what the job's graph calls the node, or the one that has expanded to it."""
    return str(progress.get("display_node_id") or progress.get("node_id")).removeprefix(GRAPH)
