"""How long jobs take, from those that ran: kept in the journal's notes, so that a restart does not forget."""

import json
from typing import Any

from ...wire.model_names import model_names
from .journal import Journal

WEIGHT = 0.3  # of the newest measurement
FIRST_START_SECONDS = 60.0  # before one was measured
FURTHEST = 4.0  # times as long, or as short, as what is known: more than that of one measurement is not believed
MAX_NOTES = 1000  # of one kind


class Estimates:
    """Seconds per step by models and size of the latent, seconds to load by models, seconds per job of any kind."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def job_seconds(self, manifest: dict[str, Any]) -> float | None:
        """Return how long a job will run with its models warm, None if nothing is known."""
        per_step = self.journal.note("seconds per step", _kind(manifest))
        return per_step * steps(manifest) if per_step is not None else self.any_job()

    def load_seconds(self, manifest: dict[str, Any]) -> float | None:
        """Return how long the job's models take to load, None if they never were."""
        return self.journal.note("load seconds", _models(manifest))

    def start_seconds(self) -> float:
        """Return how long a worker takes from its start until it can run something."""
        known = self.journal.note("start seconds", "")
        return FIRST_START_SECONDS if known is None else known

    def record_start(self, seconds: float) -> None:
        """Learn from the start of a worker."""
        self._note("start seconds", "", seconds)

    def any_job(self) -> float | None:
        """Return the seconds of a job, whatever it is."""
        return self.journal.note("seconds per job", "")

    def record(self, manifest: dict[str, Any], seconds: float, load_seconds: float | None, jobs: int) -> None:
        """Learn from a worker's run of `jobs` jobs at once; `load_seconds` of it went before the first step."""
        running = (seconds - (load_seconds or 0.0)) / jobs
        self._note("seconds per step", _kind(manifest), running / steps(manifest))
        self._note("seconds per job", "", running)
        if load_seconds is not None:
            self._note("load seconds", _models(manifest), load_seconds)

    def _note(self, kind: str, name: str, value: float) -> None:
        before = self.journal.note(kind, name)
        if before is not None:
            value = min(max(value, before / FURTHEST), before * FURTHEST)
            value = before + WEIGHT * (value - before)
        self.journal.set_note(kind, name, value, MAX_NOTES)


def steps(manifest: dict[str, Any]) -> int:
    """Return the number of steps that the graph asks for, at least 1."""
    inputs = (node["inputs"].get("steps") for node in manifest["graph"].values())
    return max([1, *(value for value in inputs if type(value) is int)])


def _models(manifest: dict[str, Any]) -> str:
    return json.dumps(model_names(manifest["graph"]))


def _kind(manifest: dict[str, Any]) -> str:
    return f"{_models(manifest)} {max(_sizes(manifest['cuts']), default=0)}"


def _sizes(packed: Any) -> list[int]:
    """Return the number of elements of every tensor with more than three dimensions: latents, not text."""
    if isinstance(packed, dict):
        shape = packed.get("shape")
        if isinstance(shape, list) and len(shape) > 3 and all(type(size) is int for size in shape):
            size = 1
            for side in shape:
                size *= side
            return [size]
        packed = list(packed.values())
    return [size for item in packed for size in _sizes(item)] if isinstance(packed, list) else []
