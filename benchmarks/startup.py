"""`python -m nox -s bench -- startup`: what the pack adds to ComfyUI's start.

Two ways. ComfyUI's own loader, timed in a fresh process in which ComfyUI's built-in nodes are loaded already, as they
are when a pack's turn comes. And main.py --quick-test-for-ci as a user starts it, with and without the pack in turn:
its wall clock is too noisy for a tenth of a second, its log says what ComfyUI itself measured.
"""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dev.pack_copy import ROOT, install_pack
from dev.server import PACK_FOLDER

from .targets import Verdict

LIMIT = 0.150  # seconds
STARTS = 2
LOADS = 3
LOADED = "seconds in the loader:"
LOGGED = re.compile(r"([\d.]+) seconds(?P<failed> \(IMPORT FAILED\))?: .*" + PACK_FOLDER)


def measure_startup() -> list[Verdict]:
    """Return the verdict on the pack's import and what ComfyUI's log and the clock say, as information."""
    with tempfile.TemporaryDirectory(prefix="velocity-startup-") as name:
        folder = Path(name)
        install_pack(folder / "custom_nodes" / PACK_FOLDER)
        loads = [_load_in_new_process(folder) for _ in range(1 + LOADS)][1:]  # the first one compiles the bytecode
        pairs = [(_start(folder, False), _start(folder, True)) for _ in range(STARTS)]
    seconds = sorted(loads)[len(loads) // 2]
    without, with_pack = (min(pair[side][0] for pair in pairs) for side in (0, 1))
    logged = min(pair[1][1] for pair in pairs)
    return [
        Verdict(
            "start-up: import by ComfyUI's loader, comfy_entrypoint and node list included",
            f"under {LIMIT * 1000:.0f} ms",
            f"{seconds * 1000:.0f} ms (median of {LOADS})",
            seconds < LIMIT,
        ),
        Verdict("start-up: what ComfyUI's log says", "0.1 s or less", f"{logged:.1f} s", None),
        Verdict(
            "start-up: main.py --quick-test-for-ci, the faster of each",
            "no difference that can be seen",
            f"{with_pack:.2f} s with the pack, {without:.2f} s without",
            None,
        ),
    ]


def _load_in_new_process(folder: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.startup", str(folder / "custom_nodes" / PACK_FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith(LOADED)]
    if done.returncode or not lines:
        raise RuntimeError(f"ComfyUI's loader did not load the pack, see why:\n{done.stdout}\n{done.stderr}")
    return float(lines[-1].removeprefix(LOADED))


def _start(folder: Path, with_pack: bool) -> tuple[float, float]:
    """Return the wall-clock seconds of one start and what the log says about the pack (0 without it)."""
    command = [sys.executable, "main.py", "--quick-test-for-ci", "--cpu", "--base-directory", str(folder)]
    command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-all-custom-nodes"]
    if with_pack:
        command += ["--whitelist-custom-nodes", PACK_FOLDER]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    environment.pop("PYTHONPATH", None)
    begin = time.perf_counter()
    done = subprocess.run(
        command, cwd=os.environ["COMFYUI_PATH"], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    seconds = time.perf_counter() - begin
    log = done.stdout + done.stderr
    found = LOGGED.search(log)
    if done.returncode or bool(found) != with_pack or (found and found["failed"]):
        raise RuntimeError(f"ComfyUI did not start {'with' if with_pack else 'without'} the pack, see why:\n{log}")
    return seconds, float(found[1]) if found else 0.0


async def _time_loader(path: str) -> float:
    import nodes

    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)
    begin = time.perf_counter()
    if not await nodes.load_custom_node(path, module_parent="custom_nodes"):
        raise RuntimeError(f"ComfyUI could not load {path}; the reason is above")
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print; with a folder as argument, time ComfyUI's loader on it in this process."""
    if sys.argv[1:]:
        print(LOADED, asyncio.run(_time_loader(sys.argv[1])))
        return
    for verdict in measure_startup():
        print(verdict.line())


if __name__ == "__main__":
    main()
