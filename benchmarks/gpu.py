"""`python -m benchmarks.gpu`: what the pack brings on this NVIDIA card, beside ComfyUI's own means. README.md explains.

Needs COMFYUI_PATH, torch, triton and ComfyUI's requirements, no model file. Writes gpu.json anew after each case, and
gpu.png at the end; a case that fails is noted and the others go on.
"""

import argparse
import gc
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import comfy.cli_args
import torch

from .gpu_report import Budget, Report

FOLDER = Path(__file__).parent


def run(options: argparse.Namespace, report: Report) -> None:
    """Measure the card, then every case that is wanted and still fits."""
    import comfy.model_management
    from comfy.ldm.modules.attention import optimized_attention

    from .gpu_card import ceilings, environment, linears
    from .gpu_models import FULL, TINY

    device, budget = comfy.model_management.get_torch_device(), Budget(options.minutes)
    works = [work for work in (TINY if options.tiny else FULL) if work.name in options.workloads]
    report.put(environment={**environment(), "attention": optimized_attention.__name__})
    report.put(titles={**report.data.get("titles", {}), **{work.name: work.title for work in works}})
    report.put(card=ceilings(device, options.tiny))
    report.put(linears=linears(device, options.tiny))
    print(json.dumps({key: report.data[key] for key in ("environment", "card", "linears")}, indent=1), flush=True)
    for work in works:
        run_workload(work, options, report, budget)


def run_workload(work: Any, options: argparse.Namespace, report: Report, budget: Budget) -> None:
    """Measure the cases of one workload; the model of each precision is built once and freed before the next."""
    from .gpu_cases import COMPILE_SECONDS, Measured, cases, measure
    from .gpu_models import build, sample

    model, built, reference, eager = None, "", None, 0.0
    for case in cases("eager" if options.tiny else "inductor"):
        wanted = case.name == "eager bf16" or options.only in case.name  # the first one is what others compare with
        expected = (options.runs + 1) * eager + (COMPILE_SECONDS if case.compiles and not options.tiny else 0.0)
        if not wanted or not budget.allows(expected):
            if wanted:
                report.add(asdict(Measured(work.name, case.name, error="left out: no time")))
            continue
        try:
            if built != case.precision:
                model, built = None, ""
                _free()
                torch._dynamo.reset()
                model, built = build(work, case.precision, torch.bfloat16), case.precision
            result = measure(work, case, model, options.runs, reference)
            if case.name == "eager bf16" and result.seconds:
                reference, eager = sample(work, model).cpu(), result.seconds
        except Exception as error:
            result = Measured(work.name, case.name, error=f"{type(error).__name__}: {str(error)[:500]}")
        report.add(asdict(result))
        _free()


def _free() -> None:
    import comfy.model_management

    comfy.model_management.cleanup_models()
    gc.collect()
    comfy.model_management.soft_empty_cache()


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.png (benchmarks/results)")
    parser.add_argument("--minutes", type=float, default=60.0, help="leave out what no longer fits (60)")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each case, after the first one (3)")
    parser.add_argument("--workloads", default="flux,wan", help="flux, wan or both (flux,wan)")
    parser.add_argument("--only", default="", help="only cases with this in their name, and the plain one")
    parser.add_argument("--add", action="store_true", help="keep the cases of the gpu.json that is there")
    parser.add_argument("--quick", action="store_true", help="one timed run of each case")
    parser.add_argument("--tiny", action="store_true", help="the same code on the CPU with toy models, to test it")
    options = parser.parse_args()
    options.runs = 1 if options.quick or options.tiny else options.runs
    options.out = options.out or FOLDER / ("out" if options.tiny else "results")
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --tiny runs the same code on the CPU")
    return options


def main() -> None:
    """Measure, write, draw."""
    options = parse()
    arguments = comfy.cli_args.args  # before anything imports comfy.model_management, which reads them once
    arguments.cpu, arguments.highvram, arguments.use_pytorch_cross_attention = options.tiny, not options.tiny, True
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.json"
    old = json.loads(path.read_text(encoding="utf-8")) if options.add and path.is_file() else {}
    report = Report(path, old)
    with torch.inference_mode():  # as ComfyUI runs its nodes
        run(options, report)
    from .gpu_chart import draw

    draw(report.data, options.out / "gpu.png")
    print(f"gpu.json and gpu.png are in {options.out}")


if __name__ == "__main__":
    main()
