"""The short forms of `gpu.py`: a process that measures (gpu_worker.py), and this one, which ends it in time and prints
the table.

A process of its own for each limit of memory, and another one where it died: what it was at is left out then.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .gpu_report import STOPPED, Report
from .gpu_start import nvidia_smi
from .gpu_table import markdown

CACHES = Path(tempfile.gettempdir()) / "velocity-gpu-caches"  # what compilers keep; --quick begins with nothing there
SPARE = 4.0  # seconds to end in


def supervise(options: argparse.Namespace) -> None:
    """Measure until everything is done or the time is over; write the table beside the JSON file."""
    began = time.time()
    card = "CPU" if options.tiny else nvidia_smi("name") or "GPU"
    form = "low-vram" if options.low_vram else "quick"
    path = options.out / f"gpu-{form}-{re.sub('[^A-Za-z0-9]+', '-', card).strip('-')}.json"
    if not options.low_vram:
        shutil.rmtree(CACHES, ignore_errors=True)
    old = json.loads(path.read_text(encoding="utf-8")) if options.add and path.is_file() else {}
    begun = [case for case in old.get("cases", []) if case["error"] != STOPPED]
    Report(path, {**old, "cases": begun}).put(options=" ".join(sys.argv[1:]))
    until, budgets = began + options.seconds, options.low_vram or [0.0]
    for place, budget in enumerate(budgets):
        end = time.time() + (until - time.time()) / (len(budgets) - place)
        _measure(path, budget, end - SPARE, options)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["seconds"] = round(time.time() - began, 1)
    Report(path, data).put()
    text = markdown(data)
    path.with_suffix(".md").write_text(text, encoding="utf-8", newline="\n")
    print(f"\n{text}\n{path.name} and {path.with_suffix('.md').name} are in {path.parent}")


def _measure(path: Path, budget: float, end: float, options: argparse.Namespace) -> None:
    """Start processes until one ends by itself, none gets on any further, or the time is over."""
    job = {"path": str(path), "user": str(CACHES / "user"), "budget": budget, "end": end, "tiny": options.tiny}
    words = ["--worker", json.dumps(job)]
    words += [f"--{name}" for name in ("tiny", "classic") if getattr(options, name)]
    words += ["--workloads", options.workloads, "--only", options.only]
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(CACHES / "inductor"), "TRITON_CACHE_DIR": str(CACHES / "triton")}
    before = -1
    while before < len(_cases(path)) and time.time() < end:
        before = len(_cases(path))
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.gpu", *words], env={**os.environ, **caches})
        try:
            if child.wait(max(0.0, end - time.time())) == 0:
                return
            print(f"  the process ended with {child.returncode}", flush=True)
        except subprocess.TimeoutExpired:
            print("  the time is over", flush=True)
        finally:
            child.kill()
            child.wait()


def _cases(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["cases"]
