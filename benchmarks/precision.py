"""`python -m nox -s bench -- precision`: what the loader's precisions cost in quality, time and memory, beside core's.

One thread, each load in a fresh process. README.md explains. Writes results/precision.json, .md and .png; with
--quick under out/ instead.
"""

import argparse
import json
import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from .precision_chart import draw
from .precision_load import flux_shapes, measure_load, write_flux_shaped
from .precision_methods import methods
from .precision_quality import QualityBench
from .precision_targets import Row, judge, markdown
from .report import environment
from .tiny_flux import STEPS

FOLDER = Path(__file__).parent
PROMPTS, ROUNDS = 12, 2
FULL = {"width": 768, "double": 19, "single": 38}  # FLUX.1-dev has 3072, 19, 38
QUICK = {"width": 128, "double": 1, "single": 1}


def measure(names: list[str], prompts: int, rounds: int, shape: dict[str, int]) -> list[Row]:
    """Return a row for each method: quality over `prompts`, loads of a file of that shape in `rounds` processes."""
    bench = QualityBench(prompts)
    weights = sum(torch.Size(shape).numel() for shape in flux_shapes(**shape).values())
    rows = []
    with tempfile.TemporaryDirectory(prefix="velocity-precision-") as folder:
        path = Path(folder) / "flux.safetensors"
        write_flux_shaped(path, **shape)
        for name in names:
            quality, load = bench.measure(name), measure_load(name, path, rounds)
            tiny = {"tiny_size": quality.size_16, "tiny_weights": quality.weights}
            psnr = {"psnr_mean": quality.psnr_mean, "psnr_worst": quality.psnr_worst}
            rows.append(Row(name, quality.error, **psnr, **asdict(load), weights=weights, **tiny))
            print(f"  {name}: error {quality.error:.4f}, loaded in {load.seconds:.1f} s", flush=True)
    return rows


def main() -> None:
    """Measure, print, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 prompts, a small file, one load each; into out/")
    parser.add_argument("--out", type=Path, help="another folder for the files")
    options = parser.parse_args()
    prompts, rounds, shape = (2, 1, QUICK) if options.quick else (PROMPTS, ROUNDS, FULL)
    folder = options.out or FOLDER / ("out" if options.quick else "results")
    folder.mkdir(exist_ok=True, parents=True)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)  # core warns of every product that a CPU can't do in fp8
    begin = time.monotonic()
    print("measuring each precision:", flush=True)
    rows = measure(methods(), prompts, rounds, shape)
    verdicts = judge(rows)
    notes = {
        **environment(torch.get_num_threads(), steps=STEPS, prompts=prompts),
        **{f"file's {k}": v for k, v in shape.items()},
        "loads each": rounds,
    }
    notes["seconds"] = round(time.monotonic() - begin)
    text = markdown(notes, rows, verdicts)
    print(text)
    (folder / "precision.md").write_text(text, encoding="utf-8", newline="\n")
    data = {"environment": notes, "rows": [asdict(r) for r in rows], "targets": [asdict(v) for v in verdicts]}
    (folder / "precision.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
    draw(rows, folder / "precision.png")
    print(f"precision.json, precision.md and precision.png are in {folder}")


if __name__ == "__main__":
    main()
