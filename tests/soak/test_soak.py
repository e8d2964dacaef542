"""The soak of Offload and the endpoint, in small; and its judge sees what is wrong."""

import os
import random
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from soak_judge import doubled, growth, left_over, lost
from soak_load import JobStory
from soak_trouble import COUNTS, schedule
from soak_watch import Use

from dev.host import ROOT

EXPECTED = ["hash", "other"]
GOOD = [JobStory(0, 0, {"a"}, "hash", told=True), JobStory(1, 1, {"b"}, cancelled=True), JobStory(2, 1, {"c"}, "other")]
LITTLE = Use(**{field.name: 10 for field in fields(Use)})


@pytest.mark.soak("a minute: a real endpoint and real clients, and each of them is killed")
def test_quick_run(tmp_path: Path) -> None:
    page = tmp_path / "soak.md"
    command = [sys.executable, "tests/soak/soak_run.py", "--jobs", "30", "--clients", "3", "--recipes", "4"]
    command += ["--seed", "3", "--out", str(page)]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    counts = dict(re.findall(r"^\| ([^|]+) \| (\d+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE))
    assert counts["**lost**"] == counts["**doubled**"] == "0"
    assert int(counts["done"]) + int(counts["cancelled"]) == 30 and int(counts["cancelled"]) > 0
    assert not [what for what in COUNTS if counts[what] == "0"]


def test_the_seed_draws_the_trouble() -> None:
    one, same, other = (schedule(1000, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other and len(one) == sum(COUNTS.values())
    assert {deed.what for deed in schedule(30, random.Random(1))} == set(COUNTS)


def test_what_is_lost() -> None:
    assert lost(GOOD, EXPECTED) == []
    bad = [
        JobStory(3, 0, {"d"}),
        JobStory(4, 0, {"e"}, failure="worker_failed: ..."),
        JobStory(5, 1, {"f"}, "hash"),
        JobStory(6, 0, {"g"}, "", told=True),
    ]
    assert [line.split()[1] for line in lost([*GOOD, *bad], EXPECTED)] == ["3", "4", "5", "6"]


def test_what_is_doubled() -> None:
    once = [["a.1", "b.2"], ["c.3"]]
    assert doubled(GOOD, once, {"a": 1, "b": 1, "c": 1}, {}) == []
    assert doubled(GOOD, [*once, ["b.4"]], {"b": 2}, {"b": 1}) == []
    assert len(doubled(GOOD, [*once, ["b.4"]], {"b": 1}, {})) == 1, "completed by two workers, and no kill found it"
    assert len(doubled(GOOD, once, {"b": 2}, {})) == 1, "begun twice, and no kill found it"
    assert len(doubled(GOOD, [["a.1", "a.2"]], {"a": 1}, {"a": 1})) == 1, "completed twice by one worker"
    assert len(doubled([JobStory(0, 0, {"a", "d"}, "hash")], once, {}, {})) == 1, "two jobs for one key"


def test_what_is_left(tmp_path: Path) -> None:
    for folder in ("results", "blobs/arriving"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.bin", "b.bin", "c.run.bin"):  # told; not told; half written
        (tmp_path / "results" / name).touch()
    (tmp_path / "blobs" / "arriving" / "tmp1").touch()
    left = {line.split()[0] for line in left_over(tmp_path, GOOD)}
    assert left == {"results/a.bin", "results/c.run.bin", "blobs/arriving/tmp1"}


def test_what_grows() -> None:
    def held(change: dict[str, int], end: dict[str, int]) -> dict[str, bool]:
        uses = [(10, LITTLE), (60, replace(LITTLE, **change))]
        return {one.name: one.held for one in growth(100, LITTLE, uses, replace(LITTLE, **end))}

    assert all(held({}, {}).values())
    for name in held({}, {}):
        assert not held({name: 10**8}, {})[name], f"{name} in the second half"
    assert not held({}, {"endpoint_files": 20})["endpoint_files"], "not given back"
