"""Compile Model+ on real models. Each file of checks runs in a process of its own.

torch.compile keeps its state for a process, and ComfyUI has to be started with its PyTorch attention.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from dev.host import ROOT

HERE = Path(__file__).parent
CHECKS = sorted(path.name for path in HERE.glob("compile_*.py"))


@pytest.mark.parametrize("file", CHECKS)
def test_checks_in_a_process_of_their_own(file: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.numerics.pytorch_attention",
        "-q",
        "--log-level=INFO",
        str(HERE / file),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=280)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
