"""`python -m nox -s demo`: paint four pictures with the stock graph and again with Velocity Forecast, and compare.

Then all together: fp8 weights, a LoRA, the forecast and a compiled model. A real ComfyUI runs on the CPU with a tiny
trained FLUX model. Pictures and report are written to `demo/out/`. `-- offload` runs the demo of Offload instead.
"""

import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from acceleration.report.quality import psnr_each
from demo.graph import STEPS, painting, with_report
from demo.pictures import enlarged_row, load
from demo.together import SERVER_OPTIONS, paint_together
from dev.server import ComfyServer

OUT = Path(__file__).parent / "out"
TECHNIQUE = {"VelocityForecast": {"preset": "balanced"}}
PICTURES = (  # prompt, seed
    ("a large red circle at the left on a blue background", 2),
    ("a large yellow ring at the center on a purple background", 5),
    ("a large white circle at the right on a black background", 1),
    ("a large orange square at the top on a green background", 3),
)
SUMMARY = re.compile(r"Velocity Forecast: (\d+) model calls, (\d+) full, (\d+) skipped")


@dataclass
class Series:
    """The four pictures painted one way: model calls and skipped calls per picture, seconds of ComfyUI in all."""

    images: list[torch.Tensor] = field(default_factory=list)
    full: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    seconds: float = 0.0


def paint(server: ComfyServer, nodes: dict[str, dict], prompt: str, seed: int, series: Series) -> None:
    """Add to `series` the picture painted with `nodes` between loader and sampler."""
    graph = painting(prompt, seed, nodes)
    seen = len(SUMMARY.findall(server.log_text()))
    result = server.run(graph)
    calls = SUMMARY.findall(server.log_text())[seen:]
    if bool(calls) != bool(nodes):
        raise RuntimeError(f"expected a summary line of the technique only where it is used, the log says {calls}")
    series.images.append(load(result.images[0]))
    series.seconds += result.seconds
    series.full.append(int(calls[0][1]) if calls else STEPS)
    series.skipped.append(int(calls[0][2]) if calls else 0)


def paint_all(server: ComfyServer) -> tuple[Series, Series]:
    """Return all pictures without and with the technique, taking turns so that a busy machine slows down both."""
    for nodes in ({}, TECHNIQUE):  # the first runs load the model and import what is imported late
        server.run(painting(PICTURES[0][0], seed=0, nodes=nodes))
    stock, fast = Series(), Series()
    for prompt, seed in PICTURES:
        paint(server, {}, prompt, seed, stock)
        paint(server, TECHNIQUE, prompt, seed, fast)
    return stock, fast


def report(server: ComfyServer) -> tuple[Path, str]:
    """Return the Speed Report's picture and text on the last picture, whose run is the newest of the model."""
    prompt, seed = PICTURES[-1]
    model = [list(TECHNIQUE)[-1], 0]
    graph = with_report(painting(prompt, seed), painting(prompt, seed, TECHNIQUE), model)
    result = server.run(graph)
    picture = next(path for path in result.images if path.name.startswith("report"))
    return picture, "\n".join(result.texts)


def table(stock: Series, fast: Series, quality: list[float]) -> str:
    """Return the comparison as text."""
    lines = [f"{'':<20}{'seconds':>9}{'full':>7}{'skipped':>9}   PSNR against the stock graph, dB"]
    lines.append(f"{'stock graph':<20}{stock.seconds:>9.2f}{sum(stock.full):>7}{sum(stock.skipped):>9}")
    lines.append(
        f"{'Velocity Forecast':<20}{fast.seconds:>9.2f}{sum(fast.full):>7}{sum(fast.skipped):>9}"
        f"   {', '.join(f'{value:.1f}' for value in quality)}"
    )
    calls = sum(stock.full) / sum(fast.full)
    lines.append(f"{calls:.2f}x fewer model calls, {stock.seconds / fast.seconds:.2f}x faster, same seeds")
    return "\n".join(lines)


def main() -> None:
    """Run the demo and write its files."""
    OUT.mkdir(exist_ok=True)
    start = time.monotonic()
    print("starting ComfyUI with the tiny model ...", flush=True)
    with ComfyServer(extra_args=SERVER_OPTIONS) as server:
        stock, fast = paint_all(server)
        picture, text = report(server)
        (OUT / "report.png").write_bytes(picture.read_bytes())
        print("painted four pictures; now all together, which compiles the model (about half a minute) ...", flush=True)
        together = paint_together(server)
    enlarged_row(stock.images).save(OUT / "baseline.png")
    enlarged_row(fast.images).save(OUT / "accelerated.png")
    quality = psnr_each(torch.stack(stock.images), torch.stack(fast.images))
    print(f"\nSpeed Report on the last picture:\n{text}")
    print(f"\n{len(PICTURES)} pictures, {STEPS} Euler steps each, on the CPU:")
    print(table(stock, fast, quality))
    enlarged_row(together.stock + together.fast).save(OUT / "together.png")
    print(f"\n{together.text()}")
    print(f"\nbaseline.png, accelerated.png, together.png and report.png are in {OUT}")
    print(f"{time.monotonic() - start:.0f} s in all")


if __name__ == "__main__":
    if sys.argv[1:] == ["offload"]:
        from demo.offload import main
    main()
