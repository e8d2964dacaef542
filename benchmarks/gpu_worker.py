"""The process of the short forms of `gpu.py` that measures one case after the other."""

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .gpu_report import STOPPED, Report


def work(options: argparse.Namespace) -> None:
    """Measure in this process what the file does not hold yet; ends with status 0 when nothing is left."""
    from .gpu_start import start

    job = json.loads(options.worker)
    path = Path(job["path"])
    memory = start(options.tiny, not options.classic, 0.0 if options.tiny else job["budget"])
    import folder_paths
    import torch

    Path(job["user"]).mkdir(parents=True, exist_ok=True)
    folder_paths.set_user_directory(job["user"])  # where Compile Model+ keeps what it compiled
    from .gpu_card import environment
    from .gpu_models import Models
    from .gpu_plan import low_vram, quick
    from .gpu_steps import Steps

    models, report = Models(), Report(path, json.loads(path.read_text(encoding="utf-8")))
    report.put(environment={**environment(), "memory": memory, "system": platform.platform()})
    print(f"{report.data['environment']['device']}, {memory}", flush=True)
    plan = list(low_vram(options.tiny) if job["budget"] else quick(options.tiny))
    plan = [item for item in plan if not options.workloads or item[0].name in options.workloads.split(",")]
    plan = [item for item in plan if options.only in item[1].name]
    label = f", {job['budget']:g} GiB" if job["budget"] else ""
    names = [[f"{model.title}{label}", case.name] for model, case, _ in plan]
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
