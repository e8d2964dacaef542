"""What earlier jobs measured is found again, by all who write at once, and a broken file costs nothing but itself."""

import json
import threading
import time

import pytest
from velocity_nodes.remote.client import history as history_module
from velocity_nodes.remote.client.history import KEPT, History, Work

WORK = Work("flux.safetensors", 20, 1000)


def test_seconds_scale_with_the_work_and_forget_outliers(tmp_path):
    history = History(tmp_path)
    assert history.seconds("studio", WORK) is None
    for seconds in (10.0, 300.0, 12.0):
        history.record_seconds("studio", WORK, seconds)
    assert history.seconds("studio", WORK) == pytest.approx(12.0)
    assert history.seconds("studio", Work(WORK.model, 10, 4000)) == pytest.approx(24.0)
    assert history.seconds("studio", Work("other", 20, 1000)) is None
    assert history.seconds("local", WORK) is None
    for _ in range(KEPT):
        history.record_seconds("studio", WORK, 5.0)
    assert history.seconds("studio", WORK) == pytest.approx(5.0), f"only the last {KEPT} count"


@pytest.mark.parametrize("wrong", [0.0, -1.0, 1e30, float("inf"), float("nan")])
def test_what_no_clock_measures_is_not_kept(tmp_path, wrong):
    history = History(tmp_path)
    history.record_seconds("studio", WORK, wrong)
    history.record_wire("studio", wrong, wrong, wrong)
    history.record_load("studio", "m", wrong)
    assert (history.seconds("studio", WORK), history.wire("studio"), history.load_seconds("studio", "m")) == (None,) * 3


def test_one_bad_measurement_decides_nothing(tmp_path):
    """The first one held a load of a minute."""
    history = History(tmp_path)
    for seconds in (60.0, 2.0):
        history.record_seconds("local", WORK, seconds)
    assert history.seconds("local", WORK) == pytest.approx(2.0)
    for seconds in (0.001, 2.1, 2.2):
        history.record_seconds("local", WORK, seconds)
    assert history.seconds("local", WORK) == pytest.approx(2.1)


def test_work_of_unknown_size():
    assert Work("m", 0, 0).units == 1


def test_wire_and_loading(tmp_path):
    history = History(tmp_path)
    assert history.wire("studio") is None
    history.record_wire("studio", None, None, 0.3)
    assert history.wire("studio") == (1e9, 1e9, 0.3), "what was too little to tell costs nothing"
    history.record_wire("studio", 1e6, 2e6, 0.1)
    assert history.wire("studio") == (1e6, 2e6, 0.1), "of two the better one"
    assert history.load_seconds("studio", "m") is None
    history.record_load("studio", "m", 40.0)
    assert history.load_seconds("studio", "m") == 40.0


def test_it_is_kept(tmp_path):
    folder = tmp_path / "a" / "b"
    history = History(folder)
    history.record_seconds("studio", WORK, 10.0)
    history.record_wire("studio", 1e6, None, 0.1)
    history.record_load("studio", "m", 4.0)
    history.record_capabilities("studio", {"node_classes": ["KSampler"]})
    history.save()
    again = History(folder)
    assert again.data == history.data
    assert again.seconds("studio", WORK) == pytest.approx(10.0)
    assert again.capabilities("studio") == {"node_classes": ["KSampler"]}
    assert [file.name for file in folder.iterdir()] == ["offload_history.json"]


def test_nothing_is_lost_when_several_write(tmp_path):
    """A dispatcher holds its history while a thread of its own keeps a hash, and another job ends."""
    dispatcher, thread, other = History(tmp_path), History(tmp_path), History(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    thread.record_hash(file, "ab")
    thread.save()
    other.record_seconds("studio", WORK, 10.0)
    other.save()
    dispatcher.record_seconds("studio", WORK, 20.0)
    dispatcher.save()
    dispatcher.record_load("studio", "m", 1.0)
    dispatcher.save()
    again = History(tmp_path)
    assert again.file_hash(file) == "ab"
    assert again.seconds("studio", WORK) == pytest.approx(10.0)
    assert len(again.data["seconds"]["studio"][WORK.model]) == 2, "a second save repeats nothing"


def test_threads_write_without_harming_the_file(tmp_path):
    def write(number: int) -> None:
        for _ in range(20):
            history = History(tmp_path)
            history.record_load(f"endpoint {number}", "m", 1.0)
            history.save()
            json.loads(history.file.read_text(encoding="utf-8"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert History(tmp_path).data["load"]
    assert not list(tmp_path.glob("*.tmp"))


def test_the_name_of_the_installation_stays(tmp_path):
    name = History(tmp_path).client()
    assert len(name) == 16
    assert History(tmp_path).client() == name
    assert History(tmp_path / "other").client() != name


def test_capabilities_are_believed_for_a_minute(tmp_path, monkeypatch):
    history = History(tmp_path)
    assert history.capabilities("studio") is None
    history.record_capabilities("studio", {"warm": []})
    assert history.capabilities("studio") == {"warm": []}
    now = time.time()
    for later, known in ((59, {"warm": []}), (61, None), (-10, None)):
        monkeypatch.setattr(history_module.time, "time", lambda later=later: now + later)
        assert history.capabilities("studio") == known
    monkeypatch.undo()
    history.record_capabilities("studio", None)
    assert history.capabilities("studio") is None


def test_a_hash_holds_until_the_file_changes(tmp_path):
    history, file = History(tmp_path), tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    assert history.file_hash(file) is None
    history.record_hash(file, "ab")
    history.save()
    assert History(tmp_path).file_hash(file) == "ab"
    file.write_bytes(b"other weights")
    assert History(tmp_path).file_hash(file) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        b"\xff\xfe",
        '{"seconds": []}',
        '{"seconds": {"studio": []}, "wire": 5, "load": "x", "capabilities": null}',
        '{"hashes": {"/x": {}}, "client": 5, "capabilities": {"studio": 1}}',
    ],
)
def test_a_broken_file_is_started_anew(tmp_path, text):
    file = tmp_path / "offload_history.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    history = History(tmp_path)
    assert (history.seconds("studio", WORK), history.wire("studio"), history.capabilities("studio")) == (None,) * 3
    assert history.load_seconds("studio", "m") is None
    assert len(history.client()) == 16
    history.record_seconds("studio", WORK, 10.0)
    history.save()
    assert History(tmp_path).seconds("studio", WORK) == pytest.approx(10.0)


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    history = History(blocker / "folder")
    history.record_seconds("studio", WORK, 10.0)
    history.save()
    assert "is not kept" in caplog.text
    assert history.seconds("studio", WORK) == pytest.approx(10.0)
