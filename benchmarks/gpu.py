"""`python -m benchmarks.gpu`: what the pack brings on this NVIDIA card, beside ComfyUI's own means. README.md explains.

Needs COMFYUI_PATH, torch, triton and ComfyUI's requirements, no model file. ComfyUI's memory management starts as users
have it, with dynamic VRAM. Whole runs: gpu.json is written anew after each case, and gpu.png at the end; a case that
fails is noted and the others go on. --quick and --low-vram: one table each, see gpu_quick.py.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .gpu_report import Budget, Report

FOLDER = Path(__file__).parent


def run(options: argparse.Namespace, report: Report, memory: str) -> None:
    """Measure the card, then every case that is wanted and still fits."""
    import comfy.model_management
    from comfy.ldm.modules.attention import optimized_attention

    from .gpu_card import ceilings, environment, linears
    from .gpu_models import FULL, TINY, Models

    device, budget = comfy.model_management.get_torch_device(), Budget(options.minutes)
    wanted = (options.workloads or "flux,wan").split(",")
    works = [work for work in (TINY if options.tiny else FULL) if work.name in wanted]
    report.put(environment={**environment(), "memory": memory, "attention": optimized_attention.__name__})
    report.put(titles={**report.data.get("titles", {}), **{work.name: work.title for work in works}})
    report.put(card=ceilings(device, options.tiny))
    report.put(linears=linears(device, options.tiny))
    print(json.dumps({key: report.data[key] for key in ("environment", "card", "linears")}, indent=1), flush=True)
    for work in works:
        run_workload(work, options, report, budget, Models())


def run_workload(work: Any, options: argparse.Namespace, report: Report, budget: Budget, models: Any) -> None:
    """Measure the cases of one workload; the model of each precision is built once and freed before the next."""
    from .gpu_cases import COMPILE_SECONDS, Measured, cases, measure
    from .gpu_models import free, sample

    reference, eager = None, 0.0
    for case in cases("eager" if options.tiny else "inductor"):
        wanted = case.name == "eager bf16" or options.only in case.name  # the first one is what others compare with
        expected = (options.runs + 1) * eager + (COMPILE_SECONDS if case.compiles and not options.tiny else 0.0)
        if not wanted or not budget.allows(expected):
            if wanted:
                report.add(asdict(Measured(work.name, case.name, error="left out: no time")))
            continue
        try:
            model = models.get(work, case.precision)
            result = measure(work, case, model, options.runs, reference)
            if case.name == "eager bf16" and result.seconds:
                reference, eager = sample(work, model).cpu(), result.seconds
        except Exception as error:
            result = Measured(work.name, case.name, error=f"{type(error).__name__}: {str(error)[:500]}")
        report.add(asdict(result))
        free()


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the files (benchmarks/results)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of whole runs, leave out what no longer fits (60)")
    parser.add_argument("--runs", type=int, default=3, help="timed whole runs of each case, after the first one (3)")
    parser.add_argument("--workloads", default="", help="of flux, wan, wan1.3b, sdxl; whole runs: flux,wan")
    parser.add_argument("--only", default="", help="only cases with this in their name, and the plain whole run")
    parser.add_argument("--add", action="store_true", help="keep the cases of the file that is there")
    parser.add_argument("--quick", action="store_true", help="one table of steps")
    parser.add_argument("--low-vram", type=float, nargs="+", metavar="GIB", help="the same for cards of 8, 12, 16 GiB")
    parser.add_argument("--seconds", type=float, help="ends --quick (300) or --low-vram (180 for each card)")
    parser.add_argument("--classic", action="store_true", help="without dynamic VRAM")
    parser.add_argument("--tiny", action="store_true", help="the same code on the CPU with toy models, to test it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick and options.low_vram:
        parser.error("--quick and --low-vram are two forms: run one after the other")
    options.runs = 1 if options.tiny else options.runs
    options.seconds = options.seconds or 180.0 * len(options.low_vram or ()) or 300.0
    options.out = options.out or FOLDER / ("out" if options.tiny else "results")
    return options


def main() -> None:
    """Measure, write, draw."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.worker:
        from .gpu_worker import work

        work(options)
    elif options.quick or options.low_vram:
        from .gpu_quick import supervise

        supervise(options)
    else:
        whole_runs(options)


def whole_runs(options: argparse.Namespace) -> None:
    """Write gpu.json and draw gpu.png."""
    from .gpu_start import start

    memory = start(options.tiny, not options.classic)
    import torch

    path = options.out / "gpu.json"
    old = json.loads(path.read_text(encoding="utf-8")) if options.add and path.is_file() else {}
    report = Report(path, old)
    with torch.inference_mode():  # as ComfyUI runs its nodes
        run(options, report, memory)
    from .gpu_chart import draw

    draw(report.data, options.out / "gpu.png")
    print(f"gpu.json and gpu.png are in {options.out}")


if __name__ == "__main__":
    main()
