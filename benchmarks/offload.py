"""`python -m nox -s bench -- offload`: what the endpoint adds to its worker's own time, on loopback, tiny model.

Starts a real `velocity serve`. Writes results/offload.json, offload.md and offload.png; with --out FOLDER there
instead; with --quick much less is measured, into benchmarks/out/.
"""

import argparse
import asyncio
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from .offload_chart import draw
from .offload_phases import QUICK, Effort, measure_endpoint
from .offload_sides import BenchEndpoint
from .offload_targets import judge, markdown
from .offload_wire import measure_wire
from .report import environment

HERE = Path(__file__).parent


def main() -> None:
    """Measure, print, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the files")
    parser.add_argument("--quick", action="store_true", help="a few short jobs, to see that it works")
    parser.add_argument("--draw", action="store_true", help="only judge and draw the kept offload.json again")
    options = parser.parse_args()
    out = options.out or HERE / ("out" if options.quick else "results")
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "offload.json"
    data = json.loads(kept.read_text(encoding="utf-8")) if options.draw else measure(options.quick)
    verdicts = judge(data)
    data["targets"] = [asdict(verdict) for verdict in verdicts]
    text = markdown(data, verdicts)
    print(text)
    kept.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
    (out / "offload.md").write_text(text, encoding="utf-8", newline="\n")
    draw(data, out / "offload.png")
    print(f"offload.json, offload.md and offload.png are in {out}")


def measure(quick: bool) -> dict:
    """Return all phases. The worker gets one thread, so that endpoint and clients have a core on a small machine."""
    begin = time.perf_counter()
    os.environ["OMP_NUM_THREADS"] = "1"
    print("starting the endpoint:", flush=True)
    with BenchEndpoint() as endpoint:
        data = asyncio.run(measure_endpoint(endpoint, QUICK if quick else Effort()))
    data["wire"] = measure_wire()
    data["notes"] = environment(1, seconds=round(time.perf_counter() - begin))
    return data


if __name__ == "__main__":
    main()
