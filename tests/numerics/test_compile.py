"""Compile Model+ on real models. Each file of checks runs in a process of its own, all at the same time.

torch.compile keeps its state for a process, and ComfyUI has to be started with its PyTorch attention.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.host import ROOT

HERE = Path(__file__).parent
LONG = pytest.mark.soak("a minute for a table of many models; other files have Flux, Wan and a UNet")
CHECKS = [
    pytest.param(path.name, marks=LONG if path.name == "compile_architectures.py" else ())
    for path in sorted(HERE.glob("compile_*.py"))
]
# torch traces itself at the level DEBUG, which pytest would keep for a report.
OPTIONS = ("-q", "-p", "tests.numerics.pytorch_attention", "--log-level=INFO", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def processes(request: pytest.FixtureRequest) -> Iterator[dict[str, subprocess.Popen]]:
    own = [item for item in request.session.items if item.path == Path(__file__)]
    settings = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    started = {
        file: subprocess.Popen([sys.executable, "-m", "pytest", *OPTIONS, str(HERE / file)], **settings)
        for file in [item.callspec.params["file"] for item in own]  # of those that are wanted
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.timeout(900)  # a busy machine
@pytest.mark.parametrize("file", CHECKS)
def test_checks_in_a_process_of_their_own(processes: dict[str, subprocess.Popen], file: str) -> None:
    output, _ = processes[file].communicate(timeout=880)
    assert processes[file].returncode == 0, output[-8000:]
