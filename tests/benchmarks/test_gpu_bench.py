"""The GPU script runs from end to end where there is no GPU: the same code with toy models, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dev.host import ROOT

SECONDS = 850
WHOLE_RUNS = pytest.mark.soak("a minute of whole runs; the short forms have the same models and cases")


def run(folder: Path, *options: str, name: str = "gpu.json") -> dict:
    """Run the command; return what it wrote."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--out", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of every case of one workload, and some of the other."""
    folder = tmp_path_factory.mktemp("gpu")
    run(folder, "--workloads", "flux")
    run(folder, "--add", "--workloads", "wan", "--only", "fp8 ours")
    return folder


@WHOLE_RUNS
def test_every_case_is_measured(folder: Path) -> None:
    """No case has an error, each has its numbers, and its latent is near that of the plain run."""
    data = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    assert {case["error"] for case in data["cases"]} == {None}
    names = [case["case"] for case in data["cases"] if case["workload"] == "flux"]
    others = [case["case"] for case in data["cases"] if case["workload"] == "wan"]
    assert len(others) > 1 and others == [name for name in names if name in others]
    for part in ("eager bf16", "compile ours", "compile core", "fp8 ours", "fp8 core", "First Block Cache draft"):
        assert any(part in name for name in names), part
    for case in data["cases"]:
        assert case["seconds"] > 0 and case["first_seconds"] > 0 and len(case["runs"]) == 1
        assert case["full"] + case["skipped"] == 8
        assert case["difference"] is None or case["difference"] < 0.1, case["case"]
        compiles = case["case"].endswith(("compile ours", "compile core"))  # those with a cache find it compiled
        assert (case["graphs"] > 0) == compiles, case["case"]
        assert case["recompiles"] == case["graph_breaks"] == 0 or "fp8 core" in case["case"], case["case"]
    assert any(case["skipped"] for case in data["cases"])
    assert {name for name, value in data["card"].items() if value > 0} == {"copy_gb_per_s", "bf16_tflops"}
    assert data["environment"]["attention"] == "attention_pytorch"
    assert data["environment"]["memory"] == "classic: it runs on the CPU"


@WHOLE_RUNS
def test_draws_a_chart(folder: Path) -> None:
    """A picture of some size that is not one colour."""
    with Image.open(folder / "gpu.png") as picture:
        assert picture.width == 1400 and picture.height > 600
        assert len(picture.convert("RGB").getcolors(10**6)) > 20


@WHOLE_RUNS
def test_out_of_time_and_added_to(folder: Path, tmp_path: Path) -> None:
    """Without time left cases are named as left out; with --add the others stay."""
    (tmp_path / "gpu.json").write_bytes((folder / "gpu.json").read_bytes())
    data = run(tmp_path, "--add", "--workloads", "wan", "--only", "fp8 core", "--minutes", "0")
    cases = {(case["workload"], case["case"]): case for case in data["cases"]}
    assert cases["wan", "fp8 core"]["error"] == cases["wan", "eager bf16"]["error"] == "left out: no time"
    assert cases["flux", "fp8 core"]["seconds"] > 0 and cases["wan", "fp8 ours"]["seconds"] > 0


def test_one_table_of_steps(tmp_path: Path) -> None:
    """--quick: each case of a model has its row; a skipped step is none of the full ones."""
    data = run(tmp_path, "--quick", "--workloads", "flux", "--only", "bf16", name="gpu-quick-CPU.json")
    cases = {case["case"]: case for case in data["cases"]}
    assert {case["error"] for case in cases.values()} == {None}
    assert [["tiny FLUX", name] for name in cases] == data["plan"] and len(cases) == 7
    assert all(case["seconds"] > 0 and case["first_seconds"] > 0 for case in cases.values())
    assert len(cases["bf16"]["steps"]) == len(cases["bf16, First Block Cache, full step"]["steps"]) == 6
    assert len(cases["bf16, Velocity Forecast, skipped step"]["steps"]) == 4
    assert cases["bf16, Compile Model+"]["graphs"] == 2 and cases["bf16"]["graphs"] == 0
    table = (tmp_path / "gpu-quick-CPU.md").read_text(encoding="utf-8")
    assert table.count("| tiny FLUX |") == 7 and "1.000" in table and "left out" not in table


def test_card_with_less_memory(tmp_path: Path) -> None:
    """--low-vram: rows for the budget; what the file of a run before holds is not measured again."""
    options = ("--low-vram", "8", "--only", "fp8", "--add")
    data = run(tmp_path, *options, name="gpu-low-vram-CPU.json")
    assert data["environment"]["memory"].startswith("classic") and len(data["plan"]) == 2
    assert [(case["workload"], case["error"]) for case in data["cases"]] == [("tiny FLUX, 8 GiB", None)] * 2
    assert run(tmp_path, *options, name="gpu-low-vram-CPU.json")["cases"] == data["cases"]


def test_ends_in_time(tmp_path: Path) -> None:
    """The process that measures is ended with the time; the table says what is not in it."""
    data = run(tmp_path, "--quick", "--seconds", "4.5", name="gpu-quick-CPU.json")
    assert not any(case["seconds"] for case in data["cases"])
    assert data["seconds"] < 60  # and not the minutes that all cases take
    assert "nothing was measured" in (tmp_path / "gpu-quick-CPU.md").read_text(encoding="utf-8")
