"""`python -m nox -s bench -- cache`: what step caching buys and what it costs, beside its rivals. README.md explains.

One process, one thread. Writes results/cache.json, cache.md and cache.png; with fewer prompts under out/ instead.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import comfyui_version
import torch

from . import methods
from .memory import history_memory
from .overhead import measure_overhead
from .plot import draw
from .startup import measure_startup
from .sweep import TRUTH, Sweep
from .table import markdown
from .targets import CHANGE, EASYCACHE, EASYCACHE_OURS, LAZYCACHE, LAZYCACHE_OURS, TAIL, VERIFIED, Point, Verdict, judge
from .tiny_flux import STEPS, Settings, TinyFlux, prompts

FOLDER = Path(__file__).parent
EULER = Settings("euler", "simple")
SAMPLERS = (
    EULER,
    Settings("dpmpp_2m", "karras"),
    Settings("uni_pc", "simple"),
    Settings("res_multistep", "beta"),
    Settings("euler_ancestral", "simple"),
)
FOR_QUICK = SAMPLERS[:2]
PROMPTS = 12
HEUN = Settings("heun", "simple")


@dataclass(frozen=True)
class Grid:
    """What is varied: tolerances, thresholds by family, and numbers of steps."""

    tolerances: tuple[float, ...]
    first_block: dict[str, tuple[float, ...]]
    core: dict[str, tuple[float, ...]]
    steps: tuple[int, ...]
    second_order_steps: tuple[int, ...]


FULL = Grid(
    tolerances=(0.1, 0.35, 0.8, 1.8, 2.5),
    first_block={VERIFIED: (0.05, 0.2, 1.0), CHANGE: (0.1, 0.2, 0.3, 0.45), TAIL: (0.1, 0.2, 0.3)},
    core={
        EASYCACHE: (0.05, 0.1, 0.2, 0.4),
        EASYCACHE_OURS: (0.05, 0.1, 0.2),
        LAZYCACHE: (0.1, 0.3),
        LAZYCACHE_OURS: (0.1, 0.3),
    },
    steps=(24, 20, 16, 14, 12, 10, 8, 7),
    second_order_steps=(16, 14, 12, 10, 8, 7),
)
OTHER = Grid(
    tolerances=(0.8, 2.0),
    first_block={VERIFIED: (1.0,), CHANGE: (0.1, 0.2, 0.35), TAIL: (0.1, 0.2)},
    core={
        EASYCACHE: (0.05, 0.1, 0.3),
        EASYCACHE_OURS: (0.05, 0.1, 0.2),
        LAZYCACHE: (0.1, 0.3),
        LAZYCACHE_OURS: (0.1,),
    },
    steps=(20, 16, 14, 12, 10, 8),
    second_order_steps=(14, 12, 10, 8),
)


def compare(flux: TinyFlux, samplers: tuple[Settings, ...], count: int) -> tuple[list[Point], str]:
    """Return every point of every sampler, over `count` prompts, and how steady the plain model's times were."""
    sweeps = []
    for settings in samplers:
        grid = FULL if settings == EULER else OTHER
        plan = methods.forecast(settings, grid.tolerances)
        plan += methods.first_block(settings, grid.first_block)
        plan += methods.core_caches(flux.model, settings, grid.core)
        plan += methods.fewer_steps(settings, grid.steps, grid.second_order_steps)
        sweeps.append(Sweep(flux, settings, plan))
    words = prompts(count)
    for settings in samplers:  # the first runs load the model and import what is imported late
        flux.paint(flux.model, settings, words[0], 0)
    begin, cpu_begin = time.monotonic(), time.process_time()
    for seed, prompt in enumerate(words):
        truth = flux.paint(flux.model, TRUTH, prompt, seed).picture
        for sweep in sweeps:
            sweep.run(prompt, seed, truth)
        spent = f"{time.monotonic() - begin:.0f} s, {time.process_time() - cpu_begin:.0f} s of them on the CPU"
        print(f"  prompt {seed + 1} of {count}, {spent}", flush=True)
    return [point for sweep in sweeps for point in sweep.points()], sweeps[0].steadiness()


def environment(count: int) -> dict[str, str | int]:
    """Return what the numbers depend on."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "steps": STEPS,
        "prompts": count,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, print, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two samplers, 3 prompts, no overhead and start-up")
    parser.add_argument("--prompts", type=int, help=f"number of prompts ({PROMPTS}, with --quick 3)")
    parser.add_argument("--heun", action="store_true", help="the sampler heun in addition, with two calls per step")
    options = parser.parse_args()
    count = options.prompts or (3 if options.quick else PROMPTS)
    folder = FOLDER / ("out" if options.quick or count < PROMPTS else "results")
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    begin = time.monotonic()
    print(f"painting {count} prompts with every sampler and method:", flush=True)
    samplers = (FOR_QUICK if options.quick else SAMPLERS) + ((HEUN,) if options.heun else ())
    points, steadiness = compare(TinyFlux(), samplers, count)
    verdicts = judge(points, methods.STOCHASTIC)
    extras: dict[str, list[Verdict]] = {"memory of the history": history_memory()}
    if not options.quick:
        print("overhead and start-up:", flush=True)
        extras["overhead"], extras["start-up"] = measure_overhead(), measure_startup()
    for more in extras.values():
        verdicts += more
    notes = {**environment(count), "plain run": steadiness, "seconds": round(time.monotonic() - begin)}
    text = markdown(notes, points, verdicts)
    print(text)
    (folder / "cache.md").write_text(text, encoding="utf-8", newline="\n")
    data = {"environment": notes, "points": [asdict(p) for p in points], "targets": [asdict(v) for v in verdicts]}
    (folder / "cache.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
    draw(points, folder / "cache.png")
    print(f"cache.json, cache.md and cache.png are in {folder}")


if __name__ == "__main__":
    main()
