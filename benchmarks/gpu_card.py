"""What the card can do at most, measured in the same run, and the fp8 kernels beside it."""

import platform
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import comfyui_version
import torch
from velocity_nodes.acceleration.precision.kernels.rowwise_fp8 import quantize_rows_torch, quantize_rows_triton

from .gpu_start import nvidia_smi

REPEATS = 20
SIDE, BUFFER = 8192, 2**30  # of the square matrices; bytes that are copied
# (tokens, in, out) of large Linears of FLUX.1-dev at 1024 x 1024 and of Wan 2.1 14B at 832 x 480, 81 frames.
LINEARS = ((4608, 3072, 21504), (4608, 15360, 3072), (32760, 5120, 13824), (32760, 13824, 5120))


def environment() -> dict[str, Any]:
    """Return what the numbers depend on."""
    found = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": platform.processor() or platform.machine(),
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "aimdo": metadata.version("comfy-aimdo"),
    }
    try:
        import triton

        found["triton"] = triton.__version__
    except ImportError:
        found["triton"] = None
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"device": card.name, "capability": f"{card.major}.{card.minor}"}
        found |= {"gib": round(card.total_memory / 2**30, 1), "driver": nvidia_smi("driver_version")}
    return found


def ceilings(device: torch.device, tiny: bool) -> dict[str, Any]:
    """Return TFLOPS of large square products (bf16, fp8 with one scale and with row scales) and GB/s of a copy."""
    side, size = (256, 2**20) if tiny else (SIDE, BUFFER)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = _timed("copy", lambda: target.copy_(source), device)
    products = _products(side, side, side, device)
    return {"copy_gb_per_s": _rate(2 * size, copied, 1e9), **_tflops(products, 2 * side**3)}


def linears(device: torch.device, tiny: bool) -> list[dict[str, Any]]:
    """Return, for each of `LINEARS`, GB/s of the quantising kernel and of its twin, and TFLOPS of the products."""
    rows = []
    for m, k, n in ((64, 256, 128),) if tiny else LINEARS:
        x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
        moved = m * k * 3 + m * 4  # read bf16, write fp8 and a scale
        ways = {"twin": lambda x=x: quantize_rows_torch(x)}
        if device.type == "cuda":
            ways["kernel"] = lambda x=x: quantize_rows_triton(x)
        times = {name: _timed(name, way, device) for name, way in ways.items()}
        quantise = {f"{name}_gb_per_s": _rate(moved, seconds, 1e9) for name, seconds in times.items()}
        if device.type == "cuda":
            quantise["kernel_equals_twin"] = _equal(x)
        rows.append({"m": m, "k": k, "n": n, **quantise, **_tflops(_products(m, k, n, device), 2 * m * k * n)})
    return rows


def _equal(x: torch.Tensor) -> bool | str:
    """Whether the kernel gives the twin's bits on this card, or why it doesn't run."""
    try:
        pairs = zip(quantize_rows_triton(x), quantize_rows_torch(x), strict=True)
        return all(torch.equal(ours.float(), twin.float()) for ours, twin in pairs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _products(m: int, k: int, n: int, device: torch.device) -> dict[str, float | str]:
    """Seconds of (m, k) @ (k, n), or why not."""
    a = torch.randn(m, k, device=device, dtype=torch.bfloat16)
    b = torch.randn(n, k, device=device, dtype=torch.bfloat16).t()
    a8, b8 = a.to(torch.float8_e4m3fn), b.t().to(torch.float8_e4m3fn).t()
    one, rows, columns = (torch.ones(shape, device=device) for shape in ((), (m, 1), (1, n)))

    def scaled(left: torch.Tensor, right: torch.Tensor, fast: bool) -> torch.Tensor:
        return torch._scaled_mm(a8, b8, left, right, out_dtype=torch.bfloat16, use_fast_accum=fast)

    ways: dict[str, Callable] = {"bf16": lambda: a @ b}
    if device.type == "cuda":
        ways |= {
            "fp8": lambda: scaled(one, one, True),
            "fp8 rows": lambda: scaled(rows, columns, True),
            "fp8 rows exact": lambda: scaled(rows, columns, False),
            "fp8 then rows": lambda: scaled(one, one, True).mul_(rows),
        }
    return {name: _timed(name, way, device) for name, way in ways.items()}


def _timed(name: str, call: Callable, device: torch.device) -> float | str:
    """Return the median seconds of `call`, warm, or the error."""
    try:
        return _median(call, device)
    except Exception as error:
        return f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}"


def _median(call: Callable, device: torch.device) -> float:
    for _ in range(3):
        call()
    if device.type != "cuda":
        return statistics.median(_wall(call) for _ in range(REPEATS))
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(REPEATS)]
    for begin, end in pairs:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) / 1000 for begin, end in pairs)


def _wall(call: Callable) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _tflops(seconds: dict[str, float | str], operations: int) -> dict[str, float | str]:
    return {f"{name.replace(' ', '_')}_tflops": _rate(operations, value, 1e12) for name, value in seconds.items()}


def _rate(amount: float, seconds: float | str, unit: float) -> float | str:
    return seconds if isinstance(seconds, str) else float(f"{amount / seconds / unit:.4g}")
