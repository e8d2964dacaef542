"""Here or there: predicted finish of a job, from what earlier ones measured."""

from dataclasses import dataclass
from typing import Any

from .history import History, Work
from .settings import HERE

CELL_BYTES = 64  # of a latent with 16 channels in float32
REMOTE, LOCAL = "remote", HERE


@dataclass(frozen=True)
class Decision:
    """Where the job goes, and why in words that name both numbers."""

    route: str
    reason: str


def decide(
    history: History, endpoint: str, work: Work, upload_bytes: int, queue_seconds: float, warm: bool, can_run_here: bool
) -> Decision:
    """Return where `work` is done sooner.

    remote = queue + cold start + upload + steps x seconds per step + download, against local = steps x seconds per
    step (loading included, as measured). What was never measured is measured once: remote first; local only if most of
    the remote time is the wire, as otherwise that could take very long.
    """
    wire, denoise = history.wire(endpoint), history.seconds(endpoint, work)
    if wire is None or denoise is None:
        return Decision(REMOTE, "measuring the endpoint once with this model")
    up, down, overhead = wire
    transfer = overhead + upload_bytes / up + CELL_BYTES * work.cells / down
    cold = 0.0 if warm else history.load_seconds(endpoint, work.model) or 0.0
    remote = queue_seconds + cold + transfer + denoise
    if not can_run_here:
        return Decision(REMOTE, f"remote {remote:.1f} s; the model is not on this machine")
    local = history.seconds(LOCAL, work)
    if local is None:
        if transfer > denoise:
            return Decision(LOCAL, f"remote {remote:.1f} s, most of it the wire: measuring this machine once")
        return Decision(REMOTE, f"remote {remote:.1f} s, this machine was never measured with this model")
    parts = f"queue {queue_seconds:.1f}, cold start {cold:.1f}, wire {transfer:.1f}, denoising {denoise:.1f}"
    return Decision(REMOTE if remote < local else LOCAL, f"remote {remote:.1f} s ({parts}), local {local:.1f} s")


def queue_seconds(capabilities: dict[str, Any], health: dict[str, Any]) -> float:
    """Return the estimate of how long a new job waits at an endpoint, for its worker to start, too."""
    workers = max(1, sum(worker.get("state") in ("ready", "busy") for worker in health.get("workers", [])))
    waiting = health.get("queued", 0) + health.get("running", 0)
    starting = health.get("starting_seconds") or 0.0
    return starting + (waiting / workers) * float(capabilities.get("seconds_per_job") or 0.0)
