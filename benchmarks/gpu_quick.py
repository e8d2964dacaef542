"""The short forms of `gpu.py`: a process that measures, and this one, which ends it in time and prints the table.

A process of its own for each limit of memory, and another one where it died: what it was at is left out then.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .gpu_report import Report
from .gpu_start import nvidia_smi
from .gpu_table import markdown

CACHES = Path(tempfile.gettempdir()) / "velocity-gpu-caches"  # what compilers keep; --quick begins with nothing there
SPARE = 4.0  # seconds to end in
STOPPED = "stopped while it ran"


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
    words = ["--worker", json.dumps({"path": str(path), "budget": budget, "end": end, "tiny": options.tiny})]
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


def work(options: argparse.Namespace) -> None:
    """Measure in this process what the file does not hold yet; ends with status 0 when nothing is left."""
    from .gpu_start import start

    job = json.loads(options.worker)
    path = Path(job["path"])
    memory = start(options.tiny, not options.classic, 0.0 if options.tiny else job["budget"])
    import folder_paths
    import torch

    (CACHES / "user").mkdir(parents=True, exist_ok=True)
    folder_paths.set_user_directory(str(CACHES / "user"))
    from .gpu_card import environment
    from .gpu_models import Models
    from .gpu_plan import low_vram, quick
    from .gpu_steps import Steps

    models = Models()

    report = Report(path, json.loads(path.read_text(encoding="utf-8")))
    report.put(environment={**environment(), "memory": memory, "system": platform.platform()})
    print(f"{report.data['environment']['device']}, {memory}", flush=True)
    plan = list(low_vram(options.tiny) if job["budget"] else quick(options.tiny))
    plan = [item for item in plan if not options.workloads or item[0].name in options.workloads.split(",")]
    plan = [item for item in plan if options.only in item[1].name]
    label = f", {job['budget']:g} GiB" if job["budget"] else ""
    names = [[f"{work.title}{label}", case.name] for work, case, _ in plan]
    report.put(plan=[*(name for name in report.data.get("plan", []) if name not in names), *names])
    with torch.inference_mode():  # as ComfyUI runs its nodes
        for item, name in zip(plan, names, strict=True):
            if name not in [[case["workload"], case["case"]] for case in report.data["cases"]]:
                _one(*item, Steps(*name), job, report, models)


def _one(work: Any, case: Any, steps: int, result: Any, job: dict[str, Any], report: Report, models: Any) -> None:
    """Measure one case, if there is time; what kills the process finds it noted as begun."""
    import comfy.model_management

    from .gpu_models import free
    from .gpu_plan import expected
    from .gpu_steps import measure_steps

    if not job["tiny"] and time.time() + expected(work, case, not models.has(work, case.precision)) > job["end"]:
        return
    report.add({**asdict(result), "error": STOPPED}, quiet=True)
    try:
        model = models.get(work, case.precision)
        if case.compiles:  # it may be another copy of the model: the first step and the peak are those of this one
            comfy.model_management.unload_all_models()
        measure_steps(result, work, case, model, steps, job["budget"])
    except Exception as error:
        result.error = f"{type(error).__name__}: {str(error).strip()[:500]}"
    report.add(asdict(result))
    if "CUDA error" in (result.error or ""):
        raise SystemExit("CUDA is of no use any more in this process")
    free()
