"""`python -m nox -s bench -- cache`: what step caching buys and what it costs, beside its rivals. README.md explains.

One process, one thread. Writes results/cache.json, cache.md and cache.png; with fewer prompts under out/ instead.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from .grids import SAMPLERS, plan
from .memory import history_memory
from .methods import STOCHASTIC
from .overhead import measure_overhead
from .plot import draw
from .report import environment
from .startup import measure_startup
from .sweep import TRUTH, Sweep
from .table import markdown
from .targets import Point, judge
from .tiny_flux import STEPS, Settings, TinyFlux, prompts

FOLDER = Path(__file__).parent
FOR_QUICK = SAMPLERS[:2]
PROMPTS = 12
HEUN = Settings("heun", "simple")


def compare(flux: TinyFlux, samplers: tuple[Settings, ...], count: int) -> tuple[list[Point], str]:
    """Return every point of every sampler, over `count` prompts, and how steady the plain model's times were."""
    sweeps = [Sweep(flux, settings, plan(flux.model, settings)) for settings in samplers]
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
    verdicts = judge(points, STOCHASTIC) + history_memory()
    if not options.quick:
        print("measuring overhead and start-up", flush=True)
        verdicts += measure_overhead() + measure_startup()
    notes = {
        **environment(torch.get_num_threads(), steps=STEPS, prompts=count),
        "plain run": steadiness,
        "seconds": round(time.monotonic() - begin),
    }
    text = markdown(notes, points, verdicts)
    print(text)
    (folder / "cache.md").write_text(text, encoding="utf-8", newline="\n")
    data = {"environment": notes, "points": [asdict(p) for p in points], "targets": [asdict(v) for v in verdicts]}
    (folder / "cache.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
    draw(points, folder / "cache.png")
    print(f"cache.json, cache.md and cache.png are in {folder}")


if __name__ == "__main__":
    main()
