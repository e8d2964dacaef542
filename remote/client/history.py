"""What earlier jobs measured, kept as JSON in ComfyUI's private user directory, and what was learnt of endpoints.

Of the last few measurements the one in the middle counts; of two the better one, as a slow one is the more likely to be
an accident: a model that was loaded, a machine that did something else.
"""

import json
import logging
import os
import secrets
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("velocity")
KEPT = 5
CAPABILITIES_SECONDS = 60.0
MIN_VALUE, MAX_VALUE = 1e-12, 1e12  # of seconds and bytes per second


@dataclass(frozen=True)
class Work:
    """What there is to denoise: `model` names the model files, `cells` counts the latent's places
    (batch, frames, height, width; not channels: an empty latent may have fewer than the model makes of it)."""

    model: str
    steps: int
    cells: int

    @property
    def units(self) -> int:
        """What the time is roughly proportional to."""
        return max(self.steps, 1) * max(self.cells, 1)


class History:
    """The file `offload_history.json` in `folder`; what is broken in it is started anew.

    Several are alive at once (two jobs, a thread that hashes), so `save` repeats its own changes on what is in the file
    by then.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "offload_history.json"
        self.data = self._read()
        self.changes: list[Callable[[dict], None]] = []

    def client(self) -> str:
        """Return this installation's random name, part of every job's key."""
        if "client" not in self.data:
            name = secrets.token_hex(8)
            self._change(lambda data: data.setdefault("client", name))
            self.save()
        return self.data["client"]

    def seconds(self, place: str, work: Work) -> float | None:
        """Return the predicted seconds of `work` at `place` (`local` or an endpoint's name), None if never measured."""
        measured = self._table("seconds", place).get(work.model)
        return statistics.median_low(measured) * work.units if measured else None

    def record_seconds(self, place: str, work: Work, seconds: float) -> None:
        """Keep how long `work` took at `place`, without queueing, loading and transfers where these are known."""
        self._keep("seconds", place, work.model, seconds / work.units)

    def wire(self, endpoint: str) -> tuple[float, float, float] | None:
        """Return bytes per second up and down, and the seconds that any job costs on the wire; None if not measured."""
        table = self._table("wire", endpoint)
        if not table.get("overhead"):
            return None
        up, down = (statistics.median_high(table[way]) if table.get(way) else 1e9 for way in ("up", "down"))
        return up, down, statistics.median_low(table["overhead"])

    def record_wire(self, endpoint: str, up: float | None, down: float | None, overhead: float) -> None:
        """Keep the measured bytes per second (None if too little was sent to tell) and the job's overhead."""
        for name, value in (("up", up), ("down", down), ("overhead", overhead)):
            if value is not None:
                self._keep("wire", endpoint, name, value)

    def load_seconds(self, endpoint: str, model: str) -> float | None:
        """Return how long the endpoint took to load the model."""
        measured = self._table("load", endpoint).get(model)
        return statistics.median_low(measured) if measured else None

    def record_load(self, endpoint: str, model: str, seconds: float) -> None:
        """Keep how long the endpoint took to load the model."""
        self._keep("load", endpoint, model, seconds)

    def capabilities(self, endpoint: str, seconds: float = CAPABILITIES_SECONDS) -> dict[str, Any] | None:
        """Return what the endpoint said within the last `seconds` that it can do."""
        entry = self._table("capabilities", endpoint)
        fresh = 0 <= time.time() - entry.get("time", 0) < seconds
        return entry["value"] if fresh else None

    def record_capabilities(self, endpoint: str, value: dict[str, Any] | None) -> None:
        """Keep what the endpoint can do; None forgets it."""
        entry = {"time": time.time(), "value": value} if value else {}
        self._change(lambda data: data.setdefault("capabilities", {}).update({endpoint: entry}))

    def file_hash(self, path: Path) -> str | None:
        """Return the kept sha256 of a file that has not changed since."""
        entry = self.data.get("hashes", {}).get(str(path))
        stat = path.stat()
        return entry[2] if entry and entry[:2] == [stat.st_size, stat.st_mtime] else None

    def record_hash(self, path: Path, sha256: str) -> None:
        """Keep a file's sha256."""
        stat = path.stat()
        entry = [stat.st_size, stat.st_mtime, sha256]
        self._change(lambda data: data.setdefault("hashes", {}).update({str(path): entry}))

    def save(self) -> None:
        """Write the file, all or nothing. A disk that is full costs the measurements and nothing else."""
        self.data = self._read()
        for change in self.changes:
            change(self.data)
        temporary = self.file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self.data), encoding="utf-8")
            temporary.replace(self.file)
            self.changes.clear()
        except OSError as error:
            log.warning("Offload: what was measured is not kept, %s can't be written: %s", self.file, error)
            with suppress(OSError):
                temporary.unlink()

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {kind: table for kind, table in data.items() if _sound(kind, table)} if isinstance(data, dict) else {}

    def _table(self, kind: str, name: str) -> dict[str, Any]:
        return self.data.get(kind, {}).get(name, {})

    def _keep(self, kind: str, name: str, key: str, value: float) -> None:
        if not MIN_VALUE < value < MAX_VALUE:  # a clock that was set, an endpoint that tells stories
            return

        def change(data: dict) -> None:
            table = data.setdefault(kind, {}).setdefault(name, {})
            table[key] = [*table.get(key, []), value][-KEPT:]

        self._change(change)

    def _change(self, change: Callable[[dict], None]) -> None:
        change(self.data)
        self.changes.append(change)


def _sound(kind: str, table: Any) -> bool:
    if kind == "client":
        return isinstance(table, str)
    rows = list if kind == "hashes" else dict
    return isinstance(table, dict) and all(isinstance(row, rows) for row in table.values())
