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
CHECKS = sorted(path.name for path in HERE.glob("compile_*.py"))
# torch traces itself at the level DEBUG, which pytest would keep for a report.
OPTIONS = ("-q", "-p", "tests.numerics.pytorch_attention", "--log-level=INFO", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, subprocess.Popen]]:
    settings = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    started = {
        file: subprocess.Popen([sys.executable, "-m", "pytest", *OPTIONS, str(HERE / file)], **settings)
        for file in CHECKS
    }
    yield started
    for process in started.values():
        process.kill()


@pytest.mark.timeout(900)  # a busy machine
@pytest.mark.parametrize("file", CHECKS)
def test_checks_in_a_process_of_their_own(processes: dict[str, subprocess.Popen], file: str) -> None:
    output, _ = processes[file].communicate(timeout=880)
    assert processes[file].returncode == 0, output[-8000:]
