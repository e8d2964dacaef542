"""The endpoint of the fault tests, with eyes on its journal, its worker and its log."""

import itertools
import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psutil
from raw_protocol import Raw, tiny_job
from velocity_nodes.remote.wire.worker_secret import HEADER, VARIABLE

from dev.endpoint import Endpoint


@dataclass(frozen=True)
class JobRow:
    """A job as the endpoint's journal has it."""

    id: str
    state: str
    attempts: int


class EndpointSide:
    """An endpoint with one worker."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._seeds = itertools.count(1000)

    def seed(self) -> int:
        """Return a seed that no test has used: nothing comes from a cache."""
        return next(self._seeds)

    def submit_raw(self, steps: int) -> str:
        """Queue a job of its own at the endpoint, past the user's ComfyUI; return its id."""
        raw, (manifest, blobs) = self.raw, tiny_job(self.seed(), steps)
        answer = raw("POST", "/v1/jobs", manifest).json
        for name in answer["missing"]:
            assert raw.put(blobs[name]).status == 204
        return answer["job"]

    @property
    def raw(self) -> Raw:
        """A new connection to the endpoint, with the key."""
        return Raw(self.endpoint.url)

    def jobs(self) -> list[JobRow]:
        """Return all jobs, oldest first."""
        with closing(sqlite3.connect(f"file:{self.endpoint.data / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            return [JobRow(*row) for row in journal.execute("SELECT id, state, attempts FROM jobs ORDER BY number")]

    def new_job(self, known: list[JobRow]) -> JobRow:
        """Return the one job that is not in `known`."""
        ids = {job.id for job in known}
        (job,) = (job for job in self.jobs() if job.id not in ids)
        return job

    def worker(self) -> psutil.Process:
        """Return the worker's process."""
        (worker,) = psutil.Process(self.endpoint.process.pid).children()
        return worker

    def completed(self, job: str) -> int:
        """Return how often the worker that lives now has run this job to its end."""
        return sum(name.startswith(job) for name in self.completed_runs())

    def completed_runs(self) -> list[str]:
        """Return what the worker that lives now has run to its end: job, a dot, and the id of the run."""
        history = self._ask_worker("/history")
        done = [entry["prompt"][2] for entry in history.values() if entry["status"]["status_str"] == "success"]
        returned = [node for graph in done for node in graph.values() if node["class_type"] == "VelocityReturn"]
        return [node["inputs"]["job"] for node in returned]

    def worker_is_idle(self) -> bool:
        """Whether the worker's own queue is empty."""
        queue = self._ask_worker("/queue")
        return not queue["queue_running"] and not queue["queue_pending"]

    def _ask_worker(self, path: str) -> dict:
        worker = self.worker()
        command, headers = worker.cmdline(), {HEADER: worker.environ()[VARIABLE]}
        url = f"http://127.0.0.1:{command[command.index('--port') + 1]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, None, headers), timeout=30) as answer:
            return json.load(answer)

    def memory(self) -> int:
        """Return the bytes of memory that the endpoint's process has."""
        return psutil.Process(self.endpoint.process.pid).memory_info().rss

    def completed_before(self) -> int:
        """Return how many prompts the worker before this one has ended."""
        old = self.endpoint.data / "workers" / "0.old.log"
        return old.read_bytes().count(b"Prompt executed") if old.is_file() else 0

    def completed_so_far(self) -> int:
        """Return how many prompts the worker that lives now, or lived last, has ended."""
        return (self.endpoint.data / "workers" / "0.log").read_bytes().count(b"Prompt executed")

    def health(self) -> dict:
        """Return the endpoint's health."""
        return self.endpoint.get("/v1/health")

    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        health = self.health()
        return not health["queued"] and not health["running"]

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
        """Wait until `condition()`, which is called again and again."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{self.endpoint.log_text()[-2000:]}"
            time.sleep(0.02)

    def until_ready(self) -> None:
        """Wait for the worker."""
        self.until(lambda: any(one["state"] == "ready" for one in self.health()["workers"]), "a worker is ready")

    def until_step(self, number: int = 3) -> None:
        """Wait until the worker has taken this many steps of the job that it runs."""
        self.until(lambda: "running" in [job.state for job in self.jobs()], "a job runs")
        job, attempt = next(job for job in self.jobs() if job.state == "running"), 0
        for kind, data in self.raw.follow(job.id):
            if kind == "running":
                attempt = data["attempt"]
            elif kind == "step" and attempt == job.attempts and data["value"] >= number:
                return
        raise AssertionError(f"the job ended before step {number}")

    def assert_free(self) -> None:
        """Assert that nothing is left that waits or runs, and that the next job runs."""
        self.until(self.is_idle, "the endpoint is idle")
        self.until_ready()
        end = self.raw.run(*tiny_job(self.seed()))
        assert end["state"] == "done", end
