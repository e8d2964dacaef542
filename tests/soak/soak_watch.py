"""Eyes on the endpoint while it runs: its journal, what its workers have run, and what it uses."""

import os
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
from endpoint_side import EndpointSide

EVERY_SECONDS = 2.0
AT_THE_ENDPOINT = ("queued", "running")
UNFINISHED = ("uploading", *AT_THE_ENDPOINT)
PATIENCE_SECONDS = 300.0
HIT_SECONDS = 3.0  # that a kill waits for a job to hit


@dataclass(frozen=True)
class Use:
    """What endpoint and worker use: bytes of memory, open files (on Windows handles), bytes on the disk."""

    endpoint_memory: int
    endpoint_files: int
    worker_memory: int
    worker_files: int
    results: int
    blobs: int
    journal: int
    logs: int


NAMES = [field.name for field in fields(Use)]


class Watch:
    """`uses` are (how many jobs had ended, use), `attempts` the most that the journal has had for each job, `allowed`
    how many kills found the job unfinished, `lives` what each worker has run to its end, `unfinished` how many jobs the
    endpoint waited for in the end."""

    def __init__(self, side: EndpointSide) -> None:
        self.side, self.ended = side, 0
        self.uses: list[tuple[int, Use]] = []
        self.attempts: Counter[str] = Counter()
        self.allowed: Counter[str] = Counter()
        self.lives: list[list[str]] = []
        self.unfinished = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def kill_worker(self) -> None:
        """Kill the process at once; the endpoint starts another one."""
        before = self._settle()
        self.side.worker().kill()
        self.allowed.update(before | self._open_jobs())

    def kill_starting_worker(self) -> bool:
        """Kill the worker if it is still being started; return whether it was."""
        starting = self.side.health()["workers"][0]["state"] == "starting"
        for worker in psutil.Process(self.side.endpoint.process.pid).children() if starting else ():
            worker.kill()
        return starting

    def kill_endpoint(self) -> None:
        """Kill the process at once; its worker ends by itself."""
        before = self._settle()
        worker = self.side.worker()
        self.side.endpoint.kill()
        worker.wait(60)
        self.allowed.update(before | self._open_jobs())

    def end(self) -> Use:
        """Note what the last worker has run, and return what is used once nobody wants anything any more."""
        self.lives.append(self.side.completed_runs())
        self.unfinished = sum(row.state in UNFINISHED for row in self._read_journal())
        return self.use()

    def use(self) -> Use:
        """Return what is used now. Raises `psutil.Error`, `ValueError` or `OSError` while one is being started."""
        data, endpoint = self.side.endpoint.data, psutil.Process(self.side.endpoint.process.pid)
        worker = self.side.worker()
        return Use(
            endpoint_memory=endpoint.memory_info().rss,
            endpoint_files=_open_files(endpoint),
            worker_memory=worker.memory_info().rss,
            worker_files=_open_files(worker),
            results=_size(data / "results"),
            blobs=_size(data / "blobs"),
            journal=sum(file.stat().st_size for file in data.glob("journal.sqlite*")),
            logs=_size(data / "workers") + self.side.endpoint.log_path.stat().st_size,
        )

    def _settle(self) -> set[str]:
        """Wait for the worker, and until no job is left that a kill has hit: a second kill would rightly fail it.

        Note what the worker has run, and return the jobs that wait or run; one runs if one does within `HIT_SECONDS`.
        """
        serves = ("ready", "busy")
        self.side.until(
            lambda: self.side.health()["workers"][0]["state"] in serves, "a worker serves", PATIENCE_SECONDS
        )
        what = "the jobs that a kill has hit have ended"
        self.side.until(lambda: not self._open_jobs() & set(self.allowed), what, PATIENCE_SECONDS)
        end, rows = time.monotonic() + HIT_SECONDS, []
        while time.monotonic() < end and "running" not in {row.state for row in rows}:
            completed, rows = self.side.completed_runs(), self._read_journal()
        self.lives.append(completed)
        return {row.id for row in rows if row.state in AT_THE_ENDPOINT}

    def _open_jobs(self) -> set[str]:
        return {row.id for row in self._read_journal() if row.state in AT_THE_ENDPOINT}

    def _read_journal(self) -> list:
        rows = self.side.jobs()
        for row in rows:
            self.attempts[row.id] = max(self.attempts[row.id], row.attempts)
        return rows

    def _run(self) -> None:
        while not self._stop.wait(EVERY_SECONDS):
            try:
                self._read_journal()
                self.uses.append((self.ended, self.use()))
            except (psutil.Error, ValueError, OSError, sqlite3.OperationalError):
                pass  # one of them is just being started again


def _open_files(process: psutil.Process) -> int:
    return process.num_handles() if os.name == "nt" else process.num_fds()


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder, from which files may vanish meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            pass
    return total
