"""What a precision costs on disk and in memory: loads and saves in fresh processes, on a file with FLUX.1-dev's shape.

All 19 + 38 blocks at a quarter of its width: 1/16 of its weights, with the proportions of the whole, so that what is
kept in 16 bits, and the largest tensor, have about the share that they have in the real one.
"""

import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.sd
import psutil
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.precision.save_quantized import save_quantized

from dev.host import ROOT

from .precision_methods import is_ours, load
from .tiny_flux import WEIGHTS

HEAD = 128
INTERVAL = 0.002  # seconds between two looks at the memory
ANSWER = "measured:"


@dataclass(frozen=True)
class Load:
    """Seconds, and bytes: the peak above the level before the load, of memory that is the process's own and with the
    pages of mapped files; the model's weights, and `size_16` as on a GPU;
    the saved file (0: not saved)."""

    seconds: float
    peak_private: int
    peak_total: int
    size: int
    size_16: int
    file_size: int = 0


def measure_load(method: str, path: Path, rounds: int) -> Load:
    """Load `path` in `rounds` fresh processes; the last one saves it too. Fastest load, highest peaks."""
    loads = [_in_new_process(method, path, saves=number == rounds - 1) for number in range(rounds)]
    peaks = (max(load.peak_private for load in loads), max(load.peak_total for load in loads))
    return Load(min(load.seconds for load in loads), *peaks, loads[-1].size, loads[-1].size_16, loads[-1].file_size)


def _in_new_process(method: str, path: Path, saves: bool) -> Load:
    code = "from benchmarks.precision_load import answer; answer()"
    command = [sys.executable, "-c", code, method, str(path), *(["save"] if saves else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith(ANSWER)]
    if done.returncode or not lines:
        raise RuntimeError(f"{method} did not load {path}, see why:\n{done.stdout}\n{done.stderr}")
    return Load(**json.loads(lines[-1].removeprefix(ANSWER)))


def answer() -> None:
    """Measure in this process, which its arguments tell: method, path, and `save` to save it too."""
    method, path, *save = sys.argv[1:]
    torch.set_num_threads(1)
    load(method, str(WEIGHTS))  # imports what is imported late, and is small
    with _Peak() as peak:
        begin = time.perf_counter()
        model = load(method, path)
        seconds = time.perf_counter() - begin
    file_size = _saved_size(method, model, Path(path).parent) if save else 0
    result = Load(seconds, peak.private, peak.total, model.model_size(), size_16(model), file_size)
    print(ANSWER + json.dumps(asdict(result)))


def size_16(model: ModelPatcher) -> int:
    """Return the bytes of the weights if those that are not quantised were in 16 bits, as core has them on a GPU. On a
    CPU that lacks 16 bits core has them in 32 where a model has quantised weights."""
    weights = model.model.diffusion_model.state_dict().items()
    wide = [w for name, w in weights if w.dtype == torch.float32 and not re.search(r"_scale(_2)?$", name)]
    return model.model_size() - sum(weight.nbytes for weight in wide) // 2


def _saved_size(method: str, model: ModelPatcher, folder: Path) -> int:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        if is_ours(method):
            return save_quantized(model, name, "saved").stat().st_size
        path = Path(name) / "saved.safetensors"
        comfy.sd.save_checkpoint(str(path), model)
        return path.stat().st_size


class _Peak:
    """Watches this process's memory from a thread; `private` and `total` are the most bytes above the start."""

    def __enter__(self) -> "_Peak":
        self._process, self._done = psutil.Process(), threading.Event()
        self._before, self.private, self.total = self._now(), 0, 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        private, total = self._now()
        self.private = max(self.private, private - self._before[0])
        self.total = max(self.total, total - self._before[1])

    def _now(self) -> tuple[int, int]:
        info = self._process.memory_info()
        mapped = getattr(info, "shared", 0)  # Linux; elsewhere both numbers are the same
        return info.rss - mapped, info.rss


def write_flux_shaped(path: Path, width: int, double: int, single: int) -> int:
    """Write random bf16 weights by FLUX.1-dev's names and return how many bytes the file has."""
    header, offset = {}, 0
    for name, shape in flux_shapes(width, double, single).items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header).encode()
    piece = (torch.randn(1 << 22) * 0.02).bfloat16().view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for left in range(offset, 0, -len(piece)):
            file.write(piece[:left])
    return path.stat().st_size


def flux_shapes(width: int, double: int, single: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of FLUX.1-dev's weights at another width (a multiple of 128) and depth."""
    linears = {"img_in": (64, width), "txt_in": (4096, width), "final_layer.linear": (width, 64)}
    linears["final_layer.adaLN_modulation.1"] = (width, 2 * width)
    for name, inside in {"time_in": 256, "guidance_in": 256, "vector_in": 768}.items():
        linears |= {f"{name}.in_layer": (inside, width), f"{name}.out_layer": (width, width)}
    norms = []
    for block in (f"double_blocks.{index}.{side}" for index in range(double) for side in ("img", "txt")):
        linears |= {f"{block}_mod.lin": (width, 6 * width), f"{block}_attn.qkv": (width, 3 * width)}
        linears |= {f"{block}_attn.proj": (width, width)}
        linears |= {f"{block}_mlp.0": (width, 4 * width), f"{block}_mlp.2": (4 * width, width)}
        norms.append(f"{block}_attn.norm")
    for block in (f"single_blocks.{index}" for index in range(single)):
        linears |= {f"{block}.linear1": (width, 7 * width), f"{block}.linear2": (5 * width, width)}
        linears |= {f"{block}.modulation.lin": (width, 3 * width)}
        norms.append(f"{block}.norm")
    shapes = {f"{name}.weight": (outside, inside) for name, (inside, outside) in linears.items()}
    shapes |= {f"{name}.bias": (outside,) for name, (_, outside) in linears.items()}
    return shapes | {f"{norm}.{kind}_norm.scale": (HEAD,) for norm in norms for kind in ("query", "key")}
