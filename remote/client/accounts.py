"""What a job measured, for the next decision, and what leaves this machine for it."""

import logging
import secrets
from pathlib import Path
from typing import Any

from ..wire.fingerprint import fidelity, fingerprint
from . import egress
from .cut import Cut
from .history import History, Work
from .run_job import Transfer
from .said import harmless

log = logging.getLogger("velocity")
ENOUGH_TO_MEASURE = 100_000  # bytes; fewer say nothing about the wire's speed


def measure(folder: Path, endpoint: str, work: Work, transfer: Transfer, seconds: float) -> None:
    """Keep in the history how long the parts of a job took that was done in `seconds`."""
    result, history = transfer.result, History(folder)
    running = min(result["seconds"], seconds)  # it can't have run for longer than it took
    load = min(result.get("load_seconds") or 0.0, running)
    history.record_seconds(endpoint, work, max(running - load, 1e-3))
    if load:
        history.record_load(endpoint, work.model, load)
    sent, received = transfer.upload_bytes, transfer.download_bytes
    up = sent / transfer.upload_seconds if sent > ENOUGH_TO_MEASURE else None
    down = received / transfer.download_seconds if received > ENOUGH_TO_MEASURE else None
    wire = (transfer.upload_seconds if up else 0.0) + (transfer.download_seconds if down else 0.0)
    # A wait in the queue is in here too; the median of several jobs forgets it.
    history.record_wire(endpoint, up, down, max(seconds - running - wire, 1e-3))
    history.save()


class Account:
    """What leaves this machine for one job, as a file that is there before anything is sent, and is completed when the
    job ends, in whatever way. `packed` are the cuts' values as they are sent, `blobs` the tensors by name."""

    def __init__(self, folder: Path, url: str, key: str, cut: Cut, packed: list[list], blobs: dict[str, bytes]) -> None:
        self.folder, self.cut = folder, cut
        self.kinds: list[tuple[str, Any]] = list(zip(cut.kinds, packed, strict=True))
        self.sizes = {name: len(data) for name, data in blobs.items()}
        self.about = {"endpoint": url, "graph": cut.graph}
        self.file = egress.new_file(folder, f"{key[:12]}-{secrets.token_hex(2)}")
        self.said = self._write("begun", set(self.sizes), {})

    def broken_off(self, error: BaseException, transfer: Transfer) -> None:
        """Note what had been sent when the job failed or was interrupted."""
        state = f"not done: {type(error).__name__}: {harmless(str(error))}".rstrip(": ")
        self._write(state, transfer.sent, {"job": transfer.job, "bytes_sent": transfer.upload_bytes})

    def done(self, transfer: Transfer, models: dict[str, Path]) -> str:
        """Complete and log the account, and return its short form for the node. `models` are the files of the same name
        on this machine."""
        result, history = transfer.result, History(self.folder)
        theirs = {name.partition("/")[2]: value for name, value in (result.get("models") or {}).items()}
        ours = {name: history.file_hash(path) for name, path in models.items()}
        level, why = fidelity(fingerprint(), result.get("fingerprint") or {}, ours, theirs)
        why = harmless(why)
        more = {"job": transfer.job, "bytes_sent": transfer.upload_bytes, "fidelity": level, "because": why}
        said = self._write("done", transfer.sent, more)
        log.info("Offload: %s (%s). Sent %d bytes: %s. %s", level, why, transfer.upload_bytes, said, self.file)
        return f"{level}; sent {transfer.upload_bytes / 1e3:.1f} kB: {said}"

    def _write(self, state: str, sent: set[str], more: dict[str, Any]) -> str:
        """Write the manifest, and return its sentence."""
        manifest = egress.describe(self.kinds, self.sizes, sent, vars(self.cut))
        said = egress.statement(manifest)
        egress.write(self.file, {"state": state, "statement": said, **manifest, **more, **self.about})
        return said
