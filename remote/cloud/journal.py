"""Every paid request on disk, from before it is sent until its result is here. SQLite, in the private user folder.

A row is durable before the request leaves, so that nothing is paid for and forgotten, and nothing paid for twice: not
by a process that is killed, and not by two that share the file.

    intended -> submitted -> completed -> collected
             \\-> failed     \\-> failed
              \\-> unknown -> submitted, failed
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTENDED, SUBMITTED, COMPLETED, COLLECTED, FAILED, UNKNOWN = STATES = (
    "intended",
    "submitted",
    "completed",
    "collected",
    "failed",
    "unknown",
)
_NEXT = {
    INTENDED: {SUBMITTED, FAILED, UNKNOWN},
    UNKNOWN: {SUBMITTED, FAILED},
    SUBMITTED: {COMPLETED, FAILED},
    COMPLETED: {COLLECTED, FAILED},
    COLLECTED: {COLLECTED},
    FAILED: set(),
}
_BUSY_SECONDS = 10.0  # for another process that writes
_VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS tasks (number INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL,"
    " model TEXT NOT NULL, inputs TEXT NOT NULL, inputs_hash TEXT NOT NULL, state TEXT NOT NULL, prediction TEXT,"
    " created REAL NOT NULL, changed REAL NOT NULL, outputs TEXT, files TEXT, error TEXT)",
    "CREATE INDEX IF NOT EXISTS tasks_by_inputs ON tasks (account, model, inputs_hash)",
    "CREATE INDEX IF NOT EXISTS tasks_by_state ON tasks (state)",
    "CREATE UNIQUE INDEX IF NOT EXISTS tasks_by_prediction ON tasks (account, prediction) WHERE prediction IS NOT NULL",
)
_JSON_FIELDS = ("inputs", "outputs", "files")


class JournalError(RuntimeError):
    """The journal can't be read or written, and so nothing be paid for; the message says which file and what to do."""


class StateError(RuntimeError):
    """A task can't go from its state into that one: another process was first."""


@dataclass(frozen=True)
class Task:
    """One paid request. `prediction` is the provider's name of it, times are seconds since the epoch, `outputs` what
    the provider said of its results and `files` where they are on this machine."""

    number: int
    account: str
    model: str
    inputs: dict[str, Any]
    inputs_hash: str
    state: str
    prediction: str | None
    created: float
    changed: float
    outputs: list[Any] | None = None
    files: list[str] | None = None
    error: str | None = None


class Journal:
    """The file. Every call is one transaction: what returned is on disk, also after a power cut."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with self._open() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise JournalError(f"{file} was written by a newer version of this pack: update the pack")
            for table in _TABLES:
                database.execute(table)
            database.execute(f"PRAGMA user_version = {_VERSION}")

    def intend(self, account: str, model: str, inputs: Mapping[str, Any]) -> Task:
        """Add a task that is about to be sent. Only when this has returned may it be. Raises `JournalError`."""
        now = time.time()
        values = (account, model, json.dumps(inputs), inputs_hash(model, inputs), INTENDED, now, now)
        with self._open() as database:
            number = database.execute(
                "INSERT INTO tasks (account, model, inputs, inputs_hash, state, created, changed)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            ).lastrowid
            return self._get(database, number)

    def advance(self, task: Task, state: str, **fields: Any) -> Task:
        """Note the task's next state, with `prediction`, `outputs`, `files` or `error`, and return it as it is now.

        Raises `StateError` where the task is not in a state before that one any more, and `JournalError`.
        """
        with self._open() as database:
            now = self._get(database, task.number)
            if state not in _NEXT[now.state]:
                raise StateError(f"task {task.number} is {now.state} already, and can't be {state}")
            values = {**fields, "state": state, "changed": time.time()}
            stored = [json.dumps(value) if name in _JSON_FIELDS else value for name, value in values.items()]
            places = ", ".join(f"{name} = ?" for name in values)
            database.execute(f"UPDATE tasks SET {places} WHERE number = ?", [*stored, task.number])
            return self._get(database, task.number)

    def get(self, number: int) -> Task | None:
        """Return the task with this number."""
        return next(iter(self._select("number = ?", number)), None)

    def by_prediction(self, account: str, prediction: str) -> Task | None:
        """Return the task that the provider calls so."""
        return next(iter(self._select("account = ? AND prediction = ?", account, prediction)), None)

    def same(self, account: str, model: str, inputs: Mapping[str, Any]) -> list[Task]:
        """Return the tasks of this model with these inputs, newest first."""
        return self._select(
            "account = ? AND model = ? AND inputs_hash = ?", account, model, inputs_hash(model, inputs)
        )[::-1]

    def in_states(self, *states: str) -> list[Task]:
        """Return the tasks in these states, oldest first."""
        return self._select(f"state IN ({', '.join('?' for _ in states)})", *states)

    def predictions(self, account: str) -> set[str]:
        """Return all names that the provider gave to tasks of this account."""
        with self._open() as database:
            rows = database.execute(
                "SELECT prediction FROM tasks WHERE account = ? AND prediction IS NOT NULL", (account,)
            )
            return {row["prediction"] for row in rows}

    def _select(self, condition: str, *values: Any) -> list[Task]:
        with self._open() as database:
            rows = database.execute(f"SELECT * FROM tasks WHERE {condition} ORDER BY number", values)
            return [_task(row) for row in rows]

    def _get(self, database: sqlite3.Connection, number: int) -> Task:
        return _task(database.execute("SELECT * FROM tasks WHERE number = ?", (number,)).fetchone())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction on a connection of its own, as calls come from several threads and processes."""
        database = None
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.file, timeout=_BUSY_SECONDS, isolation_level=None)
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")  # an intent has to outlive a power cut
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise JournalError(
                f"the journal of cloud tasks {self.file} can't be used ({error}): nothing is sent without it. Free "
                "disk space, or make the file writable"
            ) from error
        finally:
            if database is not None:
                database.close()


def inputs_hash(model: str, inputs: Mapping[str, Any]) -> str:
    """Return what tells a request from all others: sha256 of model and inputs."""
    text = json.dumps([model, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _task(row: sqlite3.Row) -> Task:
    fields = {name: row[name] for name in row.keys()}
    decoded = {name: json.loads(fields[name]) for name in _JSON_FIELDS if fields[name] is not None}
    return Task(**{**fields, **decoded})
