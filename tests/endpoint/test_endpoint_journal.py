"""The journal: what it remembers, also of a process that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from velocity_nodes.remote.endpoint.store.job import DONE, FAILED, QUEUED, RELEASED, RUNNING, Job
from velocity_nodes.remote.endpoint.store.journal import FolderInUseError, Journal, lock_folder

ROOT = Path(__file__).resolve().parents[2]


def job(number: int, **fields) -> Job:
    return Job(f"id{number}", "anna", f"key{number}", {"number": number}, **fields)


def test_a_job_comes_back_as_it_was(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    made = job(1, state=QUEUED, created=5.0, error={"code": "x"}, result={"bytes": 3}, blobs=["a", "b"])
    journal.create(made)
    assert journal.get("id1") == journal.find("anna", "key1") == made
    assert journal.get("id2") is None
    assert journal.find("berta", "key1") is None


def test_unfinished_jobs_come_in_order_of_creation(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for number, state in enumerate([DONE, QUEUED, RUNNING, FAILED, QUEUED]):
        journal.create(job(number, state=state, created=100.0 - number, blobs=[f"blob{number}"]))
    assert [found.id for found in journal.unfinished()] == ["id4", "id2", "id1"]
    assert [found.id for found in journal.queued()] == ["id4", "id1"]
    assert journal.blobs_in_use() == {"blob1", "blob2", "blob4"}
    assert journal.count()[QUEUED] == 2 and journal.count()[RELEASED] == 0


def test_an_update_changes_what_it_names_and_refuses_what_is_no_field(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.create(job(1))
    journal.update("id1", state=DONE, attempts=2, result={"bytes": 9})
    found = journal.get("id1")
    assert (found.state, found.attempts, found.result) == (DONE, 2, {"bytes": 9})
    assert abs(found.finished - time.time()) < 60
    for wrong in ({"colour": 1}, {"state": "dreaming"}, {"state = 'x' --": 1}):
        with pytest.raises(ValueError, match="no such field or state"):
            journal.update("id1", **wrong)


def test_results_expire_and_later_jobs_are_forgotten(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for number in range(3):
        journal.create(job(number, state=DONE, finished=10.0 * number, created=1.0))
    journal.create(job(9, created=1.0))
    assert journal.expire(before=15.0) == ["id0", "id1"]
    assert journal.get("id0").state == RELEASED
    assert journal.get("id2").state == DONE
    assert journal.forget(before=5.0) == ["id0"]
    assert journal.get("id0") is None


def test_notes_are_kept_and_replaced(tmp_path):
    Journal(tmp_path / "journal.sqlite").set_note("hash", "a", {"sha256": "1"})
    journal = Journal(tmp_path / "journal.sqlite")
    assert journal.note("hash", "a") == {"sha256": "1"}
    journal.set_note("hash", "a", [1, 2.5])
    assert journal.note("hash", "a") == [1, 2.5]
    assert journal.note("time", "a") is None


WRITER = """
import sys
from pathlib import Path
from dev.host import import_pack
import_pack()
from velocity_nodes.remote.endpoint.store.job import Job
from velocity_nodes.remote.endpoint.store.journal import Journal, lock_folder
folder = Path(sys.argv[1])
lock = lock_folder(folder)
journal = Journal(folder / "journal.sqlite")
for number in range(10**9):
    journal.create(Job(f"id{number}", "anna", f"key{number}", {"number": number}))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_what_was_accepted_survives_a_kill_and_the_lock_does_not(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(50):
            said = writer.stdout.readline()
        with pytest.raises(FolderInUseError, match="--data"):
            lock_folder(tmp_path)
        os.kill(writer.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        said = [said, *writer.stdout][-1]
    accepted = int(said) + 1
    journal = Journal(tmp_path / "journal.sqlite")
    assert accepted >= 50
    assert len(journal.unfinished()) in (accepted, accepted + 1)
    lock_folder(tmp_path).close()
