"""After a job: what it measured, for the next decision, and what left this machine for it."""

import logging
from pathlib import Path
from typing import Any

from ..wire.fingerprint import fidelity, fingerprint
from . import egress
from .cut import Cut
from .history import History, Work
from .run_job import Transfer

log = logging.getLogger("velocity")
ENOUGH_TO_MEASURE = 100_000  # bytes; fewer say nothing about the wire's speed


def measure(folder: Path, endpoint: str, work: Work, transfer: Transfer, seconds: float) -> None:
    """Keep in the history how long the parts of a job took that was done in `seconds`."""
    result, history = transfer.result, History(folder)
    load = result.get("load_seconds") or 0.0
    history.record_seconds(endpoint, work, max(result["seconds"] - load, 1e-3))
    if load:
        history.record_load(endpoint, work.model, load)
    sent, received = transfer.upload_bytes, transfer.download_bytes
    up = sent / transfer.upload_seconds if sent > ENOUGH_TO_MEASURE else None
    down = received / transfer.download_seconds if received > ENOUGH_TO_MEASURE else None
    wire = (transfer.upload_seconds if up else 0.0) + (transfer.download_seconds if down else 0.0)
    # A wait in the queue is in here too; the median of several jobs forgets it.
    history.record_wire(endpoint, up, down, max(seconds - result["seconds"] - wire, 1e-3))
    history.save()


def account(
    folder: Path,
    url: str,
    cut: Cut,
    packed: list[list],
    sizes: dict[str, int],
    transfer: Transfer,
    models: dict[str, Path],
) -> str:
    """Write and log the egress manifest of a job, and return its short form for the node.

    `packed` are the cuts' values as they were sent, `sizes` the bytes of their blobs by name, and `models` the files of
    the same name on this machine.
    """
    result, history = transfer.result, History(folder)
    theirs = {name.partition("/")[2]: value for name, value in (result.get("models") or {}).items()}
    ours = {name: history.file_hash(path) for name, path in models.items()}
    level, why = fidelity(fingerprint(), result.get("fingerprint") or {}, ours, theirs)
    kinds: list[tuple[str, Any]] = list(zip(cut.kinds, packed, strict=True))
    manifest = egress.describe(kinds, sizes, transfer.sent, vars(cut))
    manifest.update(endpoint=url, job=transfer.job, bytes_sent=transfer.upload_bytes)
    said = egress.statement(manifest)
    manifest.update(statement=said, fidelity=level, because=why, graph=cut.graph)
    file = egress.write(folder, manifest, transfer.job)
    log.info("Offload: %s (%s). Sent %d bytes: %s. %s", level, why, transfer.upload_bytes, said, file)
    return f"{level}; sent {transfer.upload_bytes / 1e3:.1f} kB: {said}"
