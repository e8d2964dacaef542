"""`python -m nox -s bench -- precision_reading`: loading a file of many tensors beside just reading its bytes.

2,000 tensors, 2 GB, shaped like FLUX with many narrow blocks. Each method in a fresh process, reading and loading in
turn, the fastest of each. Writes results/precision_reading.md; with --quick (a small file) under out/ instead.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import comfy.sd
import torch
from comfy.quant_ops import QUANT_ALGOS
from velocity_nodes.acceleration.precision.load_quantized import LoadConfig, load_diffusion_model
from velocity_nodes.acceleration.precision.precisions import PRECISIONS

from dev.host import ROOT

from .precision_load import flux_shapes, write_flux_shaped
from .report import environment
from .tiny_flux import WEIGHTS

FULL = {"width": 512, "double": 20, "single": 200}
QUICK = {"width": 128, "double": 2, "single": 2}
CORE = "core, as it is"
ROUNDS = 2
ANSWER = "measured:"
HEAD = "| | reading, s | loading, s | ratio | reading from the disk, s | loading, s | ratio |"
RULE = "|---|--:|--:|--:|--:|--:|--:|"


def methods() -> list[str]:
    """Return core's own load and every precision of ours that this ComfyUI has."""
    return [CORE, *(p.name for p in PRECISIONS if not p.format or p.format in QUANT_ALGOS)]


def measure(method: str, path: Path, rounds: int = ROUNDS) -> dict[str, float | None]:
    """Return the seconds of reading and loading `path`, in the system's cache and (`disk_`, on Linux) not in it."""
    code = "from benchmarks.precision_reading import answer; answer()"
    command = [sys.executable, "-c", code, method, str(path), str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not lines:
        raise RuntimeError(f"{method} did not load {path}, see why:\n{done.stdout}\n{done.stderr}")
    return json.loads(lines[-1].removeprefix(ANSWER))


def answer() -> None:
    """Measure in this process, which its arguments tell: method, path, rounds."""
    method, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    _load(method, str(WEIGHTS))  # imports what is imported late, and is small
    ways = {"read": _read, "load": lambda path: _load(method, path)}
    seconds = {}
    for prefix in ("", "disk_") if hasattr(os, "posix_fadvise") else ("",):
        for _ in range(rounds):
            for name, way in ways.items():
                if prefix:
                    _forget(path)
                begin = time.perf_counter()
                way(path)
                took = time.perf_counter() - begin
                seconds[prefix + name] = min(took, seconds.get(prefix + name, took))
    print(ANSWER + json.dumps(seconds))


def _read(path: str) -> None:
    """Every byte, once, with nothing kept."""
    buffer = bytearray(1 << 24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _load(method: str, path: str) -> None:
    if method == CORE:
        comfy.sd.load_diffusion_model(path)
    else:
        load_diffusion_model(path, LoadConfig(method))


def _forget(path: str) -> None:
    """Have the system drop what it has of the file in its cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def line(method: str, seconds: dict[str, float]) -> str:
    """Return a method's row of the table."""
    cells = [method]
    for prefix in ("", "disk_"):
        read, load = seconds.get(f"{prefix}read"), seconds.get(f"{prefix}load")
        cells += ["", "", ""] if read is None else [f"{read:.2f}", f"{load:.2f}", f"{load / read:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small file, once each; into out/")
    parser.add_argument("--methods", nargs="*", default=methods(), help="only these")
    options = parser.parse_args()
    shape, rounds = (QUICK, 1) if options.quick else (FULL, ROUNDS)
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="velocity-reading-") as folder:
        path = Path(folder) / "many.safetensors"
        size = write_flux_shaped(path, **shape)
        notes = environment(1, tensors=len(flux_shapes(**shape)), MB=round(size / 1e6), rounds=rounds)
        lines = ["# Loading beside reading", "", ", ".join(f"{k} {v}" for k, v in notes.items()), "", HEAD, RULE]
        print("\n".join(lines), flush=True)
        for method in options.methods:
            lines.append(line(method, measure(method, path, rounds)))
            print(lines[-1], flush=True)
    out = Path(__file__).parent / ("out" if options.quick else "results")
    out.mkdir(exist_ok=True)
    (out / "precision_reading.md").write_text("\n".join([*lines, ""]), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
