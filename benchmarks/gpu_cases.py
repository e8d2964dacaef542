"""What `gpu.py` compares: cases, the most telling ones first, and the measurement of one."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.caching import presets
from velocity_nodes.acceleration.caching.first_block_cache import apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import apply_velocity_forecast
from velocity_nodes.acceleration.report.telemetry import ATTACHMENT

from .gpu_models import Workload, sample
from .gpu_peak import Peak

PRESETS = ("faithful", "balanced", "draft")
COMPILE_SECONDS = 60.0  # to expect before a compiled case, at most
Apply = Callable[[ModelPatcher], ModelPatcher]


@dataclass(frozen=True)
class Case:
    """One bar of the chart: nodes that are put one after another on a model of one precision.

    `compiles`: its first run takes a compiler's time. Later cases of the same model find the functions again.
    `skipped`: `gpu_steps.py` takes the time of those steps that a cache skips.
    """

    name: str
    precision: str
    nodes: tuple[Apply, ...] = ()
    compiles: bool = False
    skipped: bool = False


@dataclass
class Measured:
    """Seconds of whole runs (median, and each), the first one apart; calls skipped; what torch.compile did."""

    workload: str
    case: str
    error: str | None = None
    seconds: float | None = None
    runs: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    peak_gib: float | None = None
    full: int | None = None
    skipped: int | None = None
    graphs: int | None = None
    recompiles: int | None = None
    graph_breaks: int | None = None
    difference: float | None = None  # relative L2 to the plain bf16 run: tells a broken case, nothing of quality


def cases(backend: str) -> Iterator[Case]:
    """Yield all cases, grouped by precision so that each model is built once; `backend` is torch.compile's."""
    ours, core = compile_ours(backend), compile_core(backend)
    caches = [(f"{title} {preset}", apply(preset)) for title, apply in CACHES.items() for preset in PRESETS]
    yield Case("eager bf16", "bf16")
    yield Case("bf16, compile ours", "bf16", (ours,), compiles=True)
    yield Case("bf16, compile core", "bf16", (core,), compiles=True)
    yield from (Case(f"bf16, {name}", "bf16", (cache,)) for name, cache in caches)
    yield Case("fp8 ours", "fp8 fast")
    yield Case("fp8 ours, compile ours", "fp8 fast", (ours,), compiles=True)
    yield from (Case(f"fp8 ours, compile ours, {name}", "fp8 fast", (cache, ours)) for name, cache in caches)
    yield Case("fp8 ours, compile core", "fp8 fast", (core,), compiles=True)
    yield Case("fp8 core", "fp8 core")
    yield Case("fp8 core, compile core", "fp8 core", (core,), compiles=True)


def measure(work: Workload, case: Case, model: ModelPatcher, runs: int, reference: torch.Tensor | None) -> Measured:
    """Run `case` once and then `runs` times. What goes wrong becomes its `error`."""
    from torch._dynamo.utils import counters

    result = Measured(work.name, case.name)
    counters.clear()
    try:
        for node in case.nodes:
            model = node(model)
        result.first_seconds, latent = _timed(work, model)
        graphs = counters["stats"]["unique_graphs"]
        with Peak() as peak:
            for _ in range(runs):
                seconds, latent = _timed(work, model)
                result.runs.append(seconds)
        result.seconds = statistics.median(result.runs)
        result.peak_gib = peak.gib and round(peak.gib, 2)
        result.graphs, result.recompiles = graphs, counters["stats"]["unique_graphs"] - graphs
        result.graph_breaks = sum(counters["graph_break"].values())
        _count_calls(result, work, model)
        if not latent.isfinite().all():
            result.error = "the latent holds NaN or infinity"
        elif reference is not None:
            result.difference = ((latent - reference).norm() / reference.norm()).item()
    except Exception as error:
        result.error = f"{type(error).__name__}: {str(error).strip()[:500]}"
    return result


def _timed(work: Workload, model: ModelPatcher) -> tuple[float, torch.Tensor]:
    begin = time.perf_counter()
    latent = sample(work, model).cpu()  # waits for the device
    return time.perf_counter() - begin, latent


def _count_calls(result: Measured, work: Workload, model: ModelPatcher) -> None:
    log = model.get_attachment(ATTACHMENT)
    result.full, result.skipped = (log.latest()[-1].full, log.latest()[-1].skipped) if log else (work.steps, 0)


def _forecast(preset: str) -> Apply:
    return lambda model: apply_velocity_forecast(model, presets.FORECAST[presets.ANY][preset])


def _first_block(preset: str) -> Apply:
    return lambda model: apply_first_block_cache(model, presets.FIRST_BLOCK[presets.ANY][preset])


CACHES = {"Velocity Forecast": _forecast, "First Block Cache": _first_block}


def compile_ours(backend: str) -> Apply:
    """Compile Model+ with its defaults."""

    def apply(model: ModelPatcher) -> ModelPatcher:
        from velocity_nodes.acceleration.compiling.compile import CompileConfig, apply_compile

        return apply_compile(model, CompileConfig(backend=backend))

    return apply


def compile_core(backend: str) -> Apply:
    """What core's TorchCompileModel node does, which offers no backend that is quick to test with."""

    def apply(model: ModelPatcher) -> ModelPatcher:
        from comfy_api.torch_helpers import set_torch_compile_wrapper
        from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

        model = model.clone(disable_dynamic=True)
        set_torch_compile_wrapper(model, backend, options={"guard_filter_fn": skip_torch_compile_dict})
        return model

    return apply
