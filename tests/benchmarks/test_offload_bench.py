"""The offload benchmark runs from end to end against a real `velocity serve`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.offload_wire import BF16, FP32, ZEROS, Part, measure_wire
from dev.host import ROOT


def test_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.offload", "--quick", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "offload.json").read_text(encoding="utf-8"))
    single = data["single"]
    assert len(single["pairs"]) == 4 and all(0 < seconds for pair in single["pairs"] for seconds in pair)
    assert single["first_event"]["median"] > 0 and single["offloaded"]["all"] > 0
    assert data["previews"]["first"]["worst"] > 0
    first, again = data["rerun"]["new prompt"], data["rerun"]["other seed"]
    assert 0 < again["bodies"] < first["bodies"] < first["sent"] and again["bodies"] < again["sent"] < first["sent"]
    judged = {verdict["name"]: verdict["met"] for verdict in data["targets"]}
    # Those of time need an idle machine; these hold on any.
    assert judged["8 jobs of 2 clients, each done once"] and judged["bodies that a re-run with another seed sends"]
    assert len(judged) == 8
    assert "throughput" in (tmp_path / "offload.md").read_text(encoding="utf-8")
    with Image.open(tmp_path / "offload.png") as picture:
        assert picture.width == 1400 and len(picture.convert("RGB").getcolors(10**6)) > 20


def test_bytes_on_the_wire() -> None:
    rows = {row["name"]: row for row in measure_wire()}
    assert rows["Wan, umt5, 60 of 512 tokens"]["least"] == 60 * 4096 * 2
    for row in rows.values():
        assert row["least"] <= row["sent"] <= row["least"] * 1.01 + 400 and row["sent"] <= row["fp32"] + 400, row


def test_the_least() -> None:
    assert Part((1, 10, 8), BF16).least_bytes == 160 and Part((1, 10, 8), BF16, live=3).least_bytes == 48
    assert Part((2, 4, 8), FP32).least_bytes == Part((2, 4, 8), FP32).fp32_bytes == 256
    assert Part((1, 4, 8), ZEROS).least_bytes == 0
