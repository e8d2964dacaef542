"""A job as the journal keeps it."""

from dataclasses import dataclass, field
from typing import Any

UPLOADING, QUEUED, RUNNING, DONE, FAILED, CANCELLED, RELEASED = STATES = (
    "uploading",
    "queued",
    "running",
    "done",
    "failed",
    "cancelled",
    "released",
)
FINISHED = (DONE, FAILED, CANCELLED, RELEASED)


@dataclass
class Job:
    """One accepted manifest. `owner` is the name of the key that sent it, `attempts` how often a worker started it."""

    id: str
    owner: str
    key: str
    manifest: dict[str, Any]  # of a finished job only its "sha256"
    state: str = UPLOADING
    attempts: int = 0
    created: float = 0.0  # seconds since the epoch
    finished: float | None = None
    error: dict[str, str] | None = None
    result: dict[str, Any] | None = None
    blobs: list[str] = field(default_factory=list)  # names of all blobs that the manifest mentions
