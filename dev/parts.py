"""The tests in parts, a process each: what is in which part, and how they run beside each other.

While they run each says about every minute how far it is. Everything that pytest prints is in files from the start; the
reports of the parts that failed are printed at the end.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from .comfyui_source import FLOOR, REFERENCE

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".nox" / "parts"
TICK_SECONDS = 60
SLOWEST = ("--durations=10", "--durations-min=5")
# A line of `pytest -v -o console_output_style=count`, as far as it is of interest: how it ended, and number of number.
TEST = re.compile(r" (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *(\d+)/(\d+)\]$", re.MULTILINE)


class Part(NamedTuple):
    """Tests that run in one process: paths below `tests`, and more of pytest's options."""

    comfyui: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()
    newest: bool = False  # with the newest of the packages that ComfyUI pins

    @property
    def name(self) -> str:
        """What it is called in the output."""
        newest = " and the newest packages" if self.newest else ""
        return f"ComfyUI {self.comfyui}{newest}: {' '.join((*self.paths, *self.options))}"


# What takes long comes first, so that the cores end together.
TESTS = (
    Part(REFERENCE, ("numerics",), ("--ignore=tests/numerics/test_compile.py",)),
    # On the floor runs what touches ComfyUI: what is left out is long and about our own code, and ComfyUI makes no
    # difference to it. `soak` has all.
    Part(
        FLOOR,
        ("numerics",),
        (
            "--ignore=tests/numerics/test_cache_quality.py",
            "--ignore=tests/numerics/test_cache_samplers.py",
            "--ignore=tests/numerics/test_first_block_every_model.py",
            "--ignore=tests/numerics/test_rowwise_fp8.py",
            "--deselect=tests/numerics/test_cache_neighbours.py::test_torch_compile",
            "--deselect=tests/numerics/test_compile.py::test_checks_in_a_process_of_their_own[compile_changes.py]",
            "--deselect=tests/numerics/test_compile.py::test_checks_in_a_process_of_their_own[compile_failures.py]",
            "--deselect=tests/numerics/test_load_quantized.py::test_peak_memory_is_the_small_model_and_its_largest_tensor",
        ),
    ),
    Part(REFERENCE, ("unit", "offload", "numerics/test_compile.py")),
    Part(REFERENCE, ("endpoint", "wire", "remote", "cloud")),
    Part(REFERENCE, ("browser", "benchmarks")),
    Part(REFERENCE, ("faults", "soak")),
    Part(REFERENCE, ("host", "contract")),
    Part(
        FLOOR,
        ("host", "offload", "contract"),
        (
            "--ignore=tests/offload/test_parity_samplers.py",
            "--deselect=tests/host/test_all_together.py::test_the_demo_of_all_together",
            "--deselect=tests/host/test_all_together.py::test_memory_comes_back",
        ),
    ),
)
# What the gate leaves out.
SOAK = (
    Part(FLOOR, ("numerics",), ("-m", "soak or not soak")),
    Part(FLOOR, ("benchmarks", "contract", "endpoint", "host", "remote", "unit", "wire"), ("-m", "soak or not soak")),
    Part(FLOOR, ("faults", "offload"), ("-m", "soak or not soak")),
    Part(REFERENCE, ("",), ("-m", "soak")),
)

# Whether the pack is ready for what a user's update brings.
FORWARD = (
    Part(REFERENCE, ("host",), newest=True),
    Part(REFERENCE, ("browser",), newest=True),
    Part("0.27.0", ("numerics",)),
    Part("0.24.0", ("numerics",)),
)


class Running:
    """A part from its start on; `log` is the file with all that pytest prints."""

    def __init__(self, part: Part, number: int) -> None:
        self.part, self.log, self.code = part, LOGS / f"{number}.txt", 0
        self.started: float | None = None
        self.seconds = 0.0

    def run(self, python: str, environment: dict[str, str]) -> None:
        """Run the part to its end."""
        self.started = time.monotonic()
        paths = [f"tests/{path}" for path in self.part.paths]
        command = [python, "-m", "pytest", "-v", "-o", "console_output_style=count", *SLOWEST, *paths]
        # One thread: the models are tiny, and another part runs beside this one.
        settings = {"cwd": ROOT, "env": {**os.environ, **environment, "OMP_NUM_THREADS": "1"}}
        with self.log.open("wb") as log:
            done = subprocess.run([*command, *self.part.options], stdout=log, stderr=subprocess.STDOUT, **settings)
        self.code, self.seconds = done.returncode, time.monotonic() - self.started

    def text(self) -> str:
        """Return what pytest has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""

    def progress(self) -> str:
        """Return one line: how far it is, and what it does."""
        text = self.text()
        tests = list(TEST.finditer(text))
        minutes = (time.monotonic() - self.started) / 60
        if not tests:
            return f"{self.part.name}: no test done, {minutes:.0f} min"
        done, count = tests[-1].group(2, 3)
        failed = sum(test[1] in ("FAILED", "ERROR") for test in tests)
        now = text[tests[-1].end() :].strip().partition("\n")[0]
        return f"{self.part.name}: {done} of {count} done, {failed} failed, {minutes:.0f} min; now {now.strip('= ')}"

    def report(self) -> str:
        """Return what pytest printed behind the last test: failures, why tests were skipped, the slowest, counts."""
        text = self.text()
        ends = [test.end() for test in TEST.finditer(text)]
        return text[ends[-1] if ends else 0 :].strip()

    def end(self) -> str:
        """Return pytest's last line, which has the counts."""
        return f"{self.part.name}: {(self.report() or 'no output').splitlines()[-1].strip('= ')}"


def folders_without_part(parts: Sequence[Part]) -> list[str]:
    """Return the folders with tests that no part on the reference ComfyUI has as a whole."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    return sorted(folders - {name for one in parts if one.comfyui == REFERENCE for name in one.paths})


def run_parts(
    parts: Sequence[Part], start: Callable[[Part], tuple[str, dict[str, str]]], say: Callable[[str], None]
) -> list[Running]:
    """Run all parts, one more at a time than there are cores, as many tests wait for servers.

    `start` returns the interpreter and the environment of a part, `say` is given what a person is to read.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in LOGS.glob("*.txt"):
        old.unlink()
    all_parts = [Running(part, number) for number, part in enumerate(parts)]
    say(f"{len(parts)} parts; everything that they print is in {LOGS.relative_to(ROOT)}")
    with ThreadPoolExecutor(1 + max(2, os.cpu_count() or 2)) as pool:
        waiting = {pool.submit(one.run, *start(one.part)): one for one in all_parts}
        while waiting:
            ended, _ = wait(waiting, TICK_SECONDS, FIRST_COMPLETED)
            for future in ended:
                future.result()
                say(waiting.pop(future).end())
            if not ended:
                for one in (one for one in waiting.values() if one.started is not None):
                    say(one.progress())
    for one in all_parts:
        say(f"{one.part.name}\n{one.report()}")
    return all_parts
