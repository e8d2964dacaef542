"""The sha256 of model files: computed once in the background, kept in the journal's notes."""

import asyncio
import hashlib
import logging
import threading
from pathlib import Path
from typing import Any

from ..admission.capabilities import find_model
from ..store.journal import Journal

log = logging.getLogger("velocity")
MAX_NOTES = 10_000


class ModelHashes:
    """Says what is known at once and finds out the rest, one file at a time."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._wanted: asyncio.Queue[tuple[str, Path]] = asyncio.Queue()
        self._asked: set[str] = set()
        self._stop = threading.Event()

    def of(self, names: list[str], about: dict[str, Any]) -> dict[str, str | None]:
        """Return `folder/name` -> sha256, None while it is not known."""
        found = {}
        for name in names:
            place = find_model(about, name)
            if place is not None:
                found[place[0]] = self._known(Path(place[1]))
        return found

    def _known(self, path: Path) -> str | None:
        try:
            note = _note_name(path)
        except OSError:
            return None
        digest = self.journal.note("sha256", note)
        if digest is None and note not in self._asked:
            self._asked.add(note)
            self._wanted.put_nowait((note, path))
        return digest

    async def work(self) -> None:
        """Hash what was asked for, for ever."""
        try:
            while True:
                note, path = await self._wanted.get()
                try:
                    digest = await asyncio.to_thread(_sha256, path, self._stop)
                    self.journal.set_note("sha256", note, digest, MAX_NOTES)
                except OSError as error:
                    log.warning("could not hash %s: %s", path, error)
        finally:
            self._stop.set()  # else the process would wait for the thread


def _note_name(path: Path) -> str:
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime}"


def _sha256(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while not stop.is_set() and (piece := file.read(1 << 20)):
            digest.update(piece)
    return digest.hexdigest()
