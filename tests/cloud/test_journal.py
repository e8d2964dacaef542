"""What is paid for is on disk before it is sent, whoever dies, and no two can claim the same step."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from velocity_nodes.remote.cloud.journal import (
    COLLECTED,
    COMPLETED,
    FAILED,
    INTENDED,
    STATES,
    SUBMITTED,
    UNKNOWN,
    Journal,
    JournalError,
    StateError,
    inputs_hash,
)

from dev.host import ROOT

MODEL = "wavespeed-ai/flux-2-klein-9b/text-to-image"
INPUTS = {"prompt": "a red fox, größer", "seed": 5, "size": "1024*1024"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "private" / "cloud.sqlite")


def test_a_task_from_intent_to_collection(journal):
    task = journal.intend("default", MODEL, INPUTS)
    assert (task.state, task.inputs, task.prediction) == (INTENDED, INPUTS, None)
    task = journal.advance(task, SUBMITTED, prediction="p1")
    task = journal.advance(task, COMPLETED, outputs=["https://elsewhere/1.png", {"text": "b"}])
    task = journal.advance(task, COLLECTED, files=["output/1.png"])
    again = Journal(journal.file).get(task.number)
    assert again == task == journal.by_prediction("default", "p1")
    assert (again.outputs, again.files) == (["https://elsewhere/1.png", {"text": "b"}], ["output/1.png"])
    assert journal.predictions("default") == {"p1"} and journal.predictions("other") == set()


def test_the_same_request_is_found_whatever_the_order_of_its_inputs(journal):
    first, second = journal.intend("default", MODEL, INPUTS), journal.intend("default", MODEL, INPUTS)
    turned = dict(reversed(INPUTS.items()))
    assert [task.number for task in journal.same("default", MODEL, turned)] == [second.number, first.number]
    assert journal.same("default", MODEL, {**INPUTS, "seed": 6}) == journal.same("other", MODEL, INPUTS) == []
    assert inputs_hash(MODEL, INPUTS) != inputs_hash("another", INPUTS)


ALLOWED = {
    (INTENDED, SUBMITTED),
    (INTENDED, FAILED),
    (INTENDED, UNKNOWN),
    (UNKNOWN, SUBMITTED),
    (UNKNOWN, FAILED),
    (SUBMITTED, COMPLETED),
    (SUBMITTED, FAILED),
    (COMPLETED, COLLECTED),
    (COMPLETED, FAILED),
    (COLLECTED, COLLECTED),
}
WAYS = {
    INTENDED: (),
    SUBMITTED: (SUBMITTED,),
    COMPLETED: (SUBMITTED, COMPLETED),
    COLLECTED: (SUBMITTED, COMPLETED, COLLECTED),
    FAILED: (FAILED,),
    UNKNOWN: (UNKNOWN,),
}


@pytest.mark.parametrize("state", STATES)
def test_no_state_is_skipped_or_taken_back(journal, state):
    for wanted in STATES:
        task = journal.intend("default", MODEL, INPUTS)
        for step in WAYS[state]:
            task = journal.advance(task, step)
        if (state, wanted) in ALLOWED:
            assert journal.advance(task, wanted).state == wanted
        else:
            with pytest.raises(StateError, match=f"is {state} already"):
                journal.advance(task, wanted)
            assert journal.get(task.number).state == state


def test_a_prediction_belongs_to_one_task(journal):
    one, other = journal.intend("default", MODEL, INPUTS), journal.intend("default", MODEL, INPUTS)
    journal.advance(one, SUBMITTED, prediction="p1")
    with pytest.raises(JournalError):
        journal.advance(other, SUBMITTED, prediction="p1")
    assert journal.get(other.number).state == INTENDED


def processes(journal: Journal, program: str, count: int = 1) -> list[str]:
    """Run a program with `journal` and some names in so many processes at once; return what each printed."""
    begin = f"""
import os, pathlib
from dev.host import import_pack
import_pack()
from velocity_nodes.remote.cloud.journal import SUBMITTED, Journal, StateError
journal = Journal(pathlib.Path({str(journal.file)!r}))
"""
    command = [sys.executable, "-c", begin + program]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [process.communicate(timeout=120)[0].strip() for process in running]


def test_an_intent_outlives_its_process(journal):
    processes(journal, f"journal.intend('default', {MODEL!r}, {INPUTS!r}); os.kill(os.getpid(), 9)")
    (task,) = journal.in_states(INTENDED)
    assert task.inputs == INPUTS


def test_two_processes_share_it(journal):
    program = """
for step in range(20):
    task = journal.intend("default", "model", {"seed": step})
    journal.advance(task, SUBMITTED, prediction=f"{os.getpid()}-{step}")
"""
    processes(journal, program, count=2)
    assert len(journal.in_states(SUBMITTED)) == len(journal.predictions("default")) == 40


def test_one_of_two_wins(journal):
    task = journal.intend("default", MODEL, INPUTS)
    program = f"""
try:
    journal.advance(journal.get({task.number}), SUBMITTED, prediction="p1")
    print("first")
except StateError:
    print("second")
"""
    assert sorted(processes(journal, program, count=2)) == ["first", "second"]


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files as POSIX can")
def test_a_full_disk_refuses(journal):
    program = """
import resource, signal
from velocity_nodes.remote.cloud.journal import JournalError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    journal.intend("default", "model", {"prompt": "x" * 20_000})
except JournalError as error:
    print(error)
"""
    (said,) = processes(journal, program)
    assert "nothing is sent without it. Free disk space" in said
    assert journal.in_states(INTENDED) == []


@pytest.mark.parametrize("broken", ["no database", "a folder", "a newer version", "locked"])
def test_a_journal_that_cannot_be_used_is_named(tmp_path, monkeypatch, broken):
    monkeypatch.setattr("velocity_nodes.remote.cloud.journal._BUSY_SECONDS", 0.2)
    file, lock = tmp_path / "cloud.sqlite", None
    if broken == "no database":
        file.write_bytes(b"x" * 5000)
    elif broken == "a folder":
        file.mkdir()
    else:
        Journal(file)
        lock = sqlite3.connect(file, isolation_level=None)
        lock.execute("PRAGMA user_version = 99" if broken == "a newer version" else "BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="cloud.sqlite") as caught:
        Journal(file).intend("default", MODEL, INPUTS)
    assert ("update the pack" in str(caught.value)) == (broken == "a newer version")
