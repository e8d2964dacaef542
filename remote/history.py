"""What earlier jobs measured, kept as JSON in ComfyUI's private user directory, and what was learnt of endpoints."""

import json
import os
import secrets
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEPT = 5
CAPABILITIES_SECONDS = 60.0


@dataclass(frozen=True)
class Work:
    """What there is to denoise: `model` names the model files, `elements` counts the latent's numbers."""

    model: str
    steps: int
    elements: int

    @property
    def units(self) -> int:
        """What the time is roughly proportional to."""
        return max(self.steps, 1) * max(self.elements, 1)


class History:
    """The file `offload_history.json` in `folder`; a broken one is started anew."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "offload_history.json"
        try:
            data = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            data = {}
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}

    def client(self) -> str:
        """Return this installation's random name, part of every job's key."""
        if "client" not in self.data:
            self.data["client"] = secrets.token_hex(8)
            self.save()
        return self.data["client"]

    def seconds(self, place: str, work: Work) -> float | None:
        """Return the predicted seconds of `work` at `place` (`local` or an endpoint's name), None if never measured."""
        measured = self._table("seconds", place).get(work.model)
        return statistics.median(measured) * work.units if measured else None

    def record_seconds(self, place: str, work: Work, seconds: float) -> None:
        """Keep how long `work` took at `place`, without queueing, loading and transfers where these are known."""
        self._keep(self._table("seconds", place), work.model, seconds / work.units)

    def wire(self, endpoint: str) -> tuple[float, float, float] | None:
        """Return bytes per second up and down, and the seconds that any job costs on the wire; None if not measured."""
        table = self._table("wire", endpoint)
        if not table.get("overhead"):
            return None
        up, down = (statistics.median(table[way]) if table.get(way) else 1e9 for way in ("up", "down"))
        return up, down, statistics.median(table["overhead"])

    def record_wire(self, endpoint: str, up: float | None, down: float | None, overhead: float) -> None:
        """Keep the measured bytes per second (None if too little was sent to tell) and the job's overhead."""
        for name, value in (("up", up), ("down", down), ("overhead", overhead)):
            if value is not None:
                self._keep(self._table("wire", endpoint), name, value)

    def load_seconds(self, endpoint: str, model: str) -> float | None:
        """Return how long the endpoint took to load the model."""
        measured = self._table("load", endpoint).get(model)
        return statistics.median(measured) if measured else None

    def record_load(self, endpoint: str, model: str, seconds: float) -> None:
        """Keep how long the endpoint took to load the model."""
        self._keep(self._table("load", endpoint), model, seconds)

    def capabilities(self, endpoint: str) -> dict[str, Any] | None:
        """Return what the endpoint said within the last minute that it can do."""
        entry = self._table("capabilities", endpoint)
        fresh = 0 <= time.time() - entry.get("time", 0) < CAPABILITIES_SECONDS
        return entry["value"] if fresh else None

    def record_capabilities(self, endpoint: str, value: dict[str, Any] | None) -> None:
        """Keep what the endpoint can do; None forgets it."""
        self.data.setdefault("capabilities", {})[endpoint] = {"time": time.time(), "value": value} if value else {}

    def file_hash(self, path: Path) -> str | None:
        """Return the kept sha256 of a file that has not changed since."""
        entry = self.data.get("hashes", {}).get(str(path))
        stat = path.stat()
        return entry[2] if entry and entry[:2] == [stat.st_size, stat.st_mtime] else None

    def record_hash(self, path: Path, sha256: str) -> None:
        """Keep a file's sha256."""
        stat = path.stat()
        self.data.setdefault("hashes", {})[str(path)] = [stat.st_size, stat.st_mtime, sha256]

    def save(self) -> None:
        """Write the file, all or nothing."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.data), encoding="utf-8")
        temporary.replace(self.file)

    def _table(self, kind: str, name: str) -> dict[str, Any]:
        return self.data.setdefault(kind, {}).setdefault(name, {})

    def _keep(self, table: dict[str, Any], name: str, value: float) -> None:
        table[name] = [*table.get(name, []), value][-KEPT:]
