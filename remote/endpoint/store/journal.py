"""The jobs on disk, so that a restarted endpoint knows what it has promised. SQLite, called from one thread only.

Every call is one short transaction: what returned is on disk even if the process is killed right after.
"""

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .job import DONE, FINISHED, QUEUED, RELEASED, RUNNING, STATES, UPLOADING, Job

log = logging.getLogger("velocity")

MAX_FINISHED = 1000  # jobs of one key that are remembered after their end
SHRUNK_AT_ONCE = 10_000  # pages of 4 KiB
_INCREMENTAL = 2
_JSON_FIELDS = ("manifest", "error", "result", "blobs")
_FIELDS = ("id", "owner", "key", "manifest", "state", "attempts", "created", "finished", "error", "result", "blobs")
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, key TEXT NOT NULL, manifest TEXT NOT NULL,
    state TEXT NOT NULL, attempts INTEGER NOT NULL, created REAL NOT NULL, finished REAL, error TEXT, result TEXT,
    blobs TEXT NOT NULL, UNIQUE (owner, key));
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE TABLE IF NOT EXISTS notes (kind TEXT, name TEXT, value TEXT NOT NULL, PRIMARY KEY (kind, name));
"""


class FolderInUseError(RuntimeError):
    """Another endpoint works in this data folder."""


def lock_folder(folder: Path) -> sqlite3.Connection:
    """Lock the data folder for as long as the returned connection lives; the system frees it when the process dies.

    Raises `FolderInUseError`.
    """
    connection = sqlite3.connect(folder / "lock.sqlite", timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise FolderInUseError(
            f"another endpoint uses the data folder {folder}: stop it, or choose another folder with --data"
        ) from error
    return connection


class JournalError(RuntimeError):
    """The journal cannot be written, and so no job be accepted."""


class Journal:
    """All jobs that were accepted and not yet forgotten, and small notes that outlive a restart.

    What happens to accepted jobs while the disk is full is kept in memory, and written as soon as something can be:
    they go on, instead of waiting for ever.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.row_factory = sqlite3.Row
        if self._database.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
            self._database.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
            try:
                self._database.execute("VACUUM")  # without which it stays as it was
            except sqlite3.OperationalError as error:
                log.warning("the journal will not become smaller again (%s): is the disk full?", error)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(f"PRAGMA journal_size_limit={4 << 20}")
        self._database.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing; a power cut may
        self._database.executescript(_TABLES)
        self._late: dict[str, dict[str, Any]] = {}  # job id -> fields that could not be written yet

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def create(self, job: Job) -> None:
        """Add a job; `created` is set to now where it is 0.

        Raises `JournalError`, and `sqlite3.IntegrityError` if owner and key exist.
        """
        job.created = job.created or time.time()
        values = [_store(name, getattr(job, name)) for name in _FIELDS]
        marks = ", ".join("?" for _ in _FIELDS)
        try:
            self._database.execute(f"INSERT INTO jobs ({', '.join(_FIELDS)}) VALUES ({marks})", values)
        except sqlite3.OperationalError as error:
            raise JournalError(f"the endpoint cannot write its journal: {error}") from error

    def get(self, job_id: str) -> Job | None:
        """Return the job with this id."""
        return next(iter(self._select("id = ?", job_id)), None)

    def find(self, owner: str, key: str) -> Job | None:
        """Return the job that this owner made under this idempotency key."""
        return next(iter(self._select("owner = ? AND key = ?", owner, key)), None)

    def update(self, job_id: str, **fields: Any) -> None:
        """Set fields of a job; a finished state sets `finished` to now unless it is given.

        Of a finished job's manifest only the hash is kept, and none of its blobs' names.
        """
        if fields.get("state") in FINISHED:
            fields.setdefault("finished", time.time())
        unknown = set(fields) - set(_FIELDS)
        if unknown or fields.get("state", QUEUED) not in STATES:
            raise ValueError(f"a job has no such field or state: {sorted(unknown) or fields['state']}")
        self._late[job_id] = {**self._late.get(job_id, {}), **fields}
        try:
            for late in list(self._late):
                self._write(late, self._late[late])
                del self._late[late]
        except sqlite3.OperationalError as error:
            log.error("the journal cannot be written (%s): is the disk full? The next change tries again", error)

    def unfinished(self) -> list[Job]:
        """Return the jobs that upload, wait or run, oldest first."""
        return self._select("state IN (?, ?, ?)", UPLOADING, QUEUED, RUNNING)

    def queued(self) -> list[Job]:
        """Return the jobs that wait for a worker, oldest first."""
        return self._select("state = ?", QUEUED)

    def count(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        found = dict(map(tuple, self._database.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state")))
        return {state: found.get(state, 0) for state in STATES}

    def count_of(self, owner: str) -> tuple[int, int]:
        """Return how many unfinished jobs an owner has, and how many of these miss blobs."""
        query = "SELECT COUNT(*), TOTAL(state = ?) FROM jobs WHERE owner = ? AND state IN (?, ?, ?)"
        row = self._database.execute(query, (UPLOADING, owner, UPLOADING, QUEUED, RUNNING)).fetchone()
        return row[0], int(row[1])

    def blobs_in_use(self, owner: str | None = None) -> set[str]:
        """Return the names of all blobs that unfinished jobs mention, those of one owner or of all."""
        query = "SELECT blobs FROM jobs WHERE state IN (?, ?, ?) AND ? IN (owner, '')"
        rows = self._database.execute(query, (UPLOADING, QUEUED, RUNNING, owner or "")).fetchall()
        return {name for row in rows for name in json.loads(row["blobs"])}

    def done(self) -> list[tuple[str, str]]:
        """Return id and owner of the jobs whose results wait, those first that ended first."""
        rows = self._database.execute("SELECT id, owner FROM jobs WHERE state = ? ORDER BY finished, number", (DONE,))
        return [tuple(row) for row in rows]

    def expire(self, before: float) -> list[str]:
        """Release the jobs that finished before then (seconds since the epoch); return the ids of the done ones."""
        done = self._database.execute("SELECT id FROM jobs WHERE state = ? AND finished < ?", (DONE, before)).fetchall()
        self._database.execute("UPDATE jobs SET state = ? WHERE state = ? AND finished < ?", (RELEASED, DONE, before))
        return [row["id"] for row in done]

    def forget(self, before: float, most: int = MAX_FINISHED) -> list[str]:
        """Delete every trace of the jobs that finished before then, and of what an owner has beyond `most` finished
        jobs, the oldest first and results that wait last; return their ids."""
        rank = "ROW_NUMBER() OVER (PARTITION BY owner ORDER BY state = ? DESC, finished DESC)"
        ranked = f"SELECT id, finished, {rank} AS rank FROM jobs WHERE finished IS NOT NULL"
        query = f"SELECT id FROM ({ranked}) WHERE finished < ? OR rank > ?"
        ids = [row["id"] for row in self._database.execute(query, (DONE, before, most))]
        self._database.executemany("DELETE FROM jobs WHERE id = ?", [(job_id,) for job_id in ids])
        return ids

    def shrink(self) -> None:
        """Give disk space back that nothing needs any more, some at a time."""
        self._database.executescript(f"PRAGMA incremental_vacuum({SHRUNK_AT_ONCE})")  # `execute` does one page
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def note(self, kind: str, name: str) -> Any:
        """Return the value noted under this name, or None."""
        row = self._database.execute("SELECT value FROM notes WHERE kind = ? AND name = ?", (kind, name)).fetchone()
        return json.loads(row["value"]) if row else None

    def notes(self, kind: str) -> dict[str, Any]:
        """Return all values of this kind by name."""
        rows = self._database.execute("SELECT name, value FROM notes WHERE kind = ?", (kind,))
        return {row["name"]: json.loads(row["value"]) for row in rows}

    def set_note(self, kind: str, name: str, value: Any, most: int | None = None) -> None:
        """Note a JSON value under this name, in place of an older one; of this kind, keep the `most` newest."""
        old = "SELECT rowid FROM notes WHERE kind = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?"
        try:
            self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (kind, name, json.dumps(value)))
            if most is not None:
                self._database.execute(f"DELETE FROM notes WHERE rowid IN ({old})", (kind, most))
        except sqlite3.OperationalError as error:
            log.warning("a note could not be written into the journal: %s", error)

    def drop_notes(self, kind: str, names: Iterable[str]) -> None:
        """Delete the values under these names."""
        self._database.executemany("DELETE FROM notes WHERE kind = ? AND name = ?", [(kind, name) for name in names])

    def _write(self, job_id: str, fields: dict[str, Any]) -> None:
        if fields.get("state") in FINISHED:
            row = self._database.execute("SELECT manifest FROM jobs WHERE id = ?", (job_id,)).fetchone()
            short = {"sha256": manifest_hash(json.loads(row["manifest"]))} if row else {}
            fields = {**fields, "manifest": short, "blobs": []}
        places = ", ".join(f"{name} = ?" for name in fields)
        values = [_store(name, value) for name, value in fields.items()]
        self._database.execute(f"UPDATE jobs SET {places} WHERE id = ?", [*values, job_id])

    def _select(self, condition: str, *values: Any) -> list[Job]:
        query = f"SELECT {', '.join(_FIELDS)} FROM jobs WHERE {condition} ORDER BY created, number"
        jobs = [_load(row) for row in self._database.execute(query, values).fetchall()]
        return [replace(job, **self._late.get(job.id, {})) for job in jobs]


def manifest_hash(manifest: dict[str, Any]) -> str:
    """Return what tells a manifest from all others; it may be one of which no more than this is left."""
    if set(manifest) == {"sha256"}:
        return manifest["sha256"]
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _store(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON_FIELDS and value is not None else value


def _load(row: sqlite3.Row) -> Job:
    fields = {name: row[name] for name in _FIELDS}
    decoded = {name: json.loads(fields[name]) for name in _JSON_FIELDS if fields[name] is not None}
    return Job(**{**fields, **decoded})
