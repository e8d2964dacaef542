"""Measures what one step costs in a short sampling run: the first one with all preparation, the later ones warm."""

import statistics
import time
from dataclasses import dataclass, field

import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.report.step_clock import StepClock
from velocity_nodes.acceleration.report.telemetry import ATTACHMENT

from .gpu_cases import Case
from .gpu_models import Workload, sample
from .gpu_peak import Peak

WARM = 2  # the first step that counts


@dataclass
class Steps:
    """`seconds` of a step (the median of `steps`), of a skipped one where the case is about those.

    `first_seconds` reach from the nodes to the end of the first step: loading, pinning, compilation. `peak_gib` is what
    the whole card had in use at most in the run, CUDA's own part in it. `memory` says how the weights of this very
    model are managed.
    """

    workload: str
    case: str
    error: str | None = None
    memory: str | None = None
    seconds: float | None = None
    steps: list[float] = field(default_factory=list)
    first_seconds: float | None = None
    graphs: int | None = None
    graph_breaks: int | None = None
    peak_gib: float | None = None


def measure_steps(result: Steps, work: Workload, case: Case, model: ModelPatcher, steps: int, budget: float) -> None:
    """Sample `steps` steps and fill `result`; of the card all but `budget` GiB are taken, unless that is 0."""
    from torch._dynamo.utils import counters

    counters.clear()
    begin = time.perf_counter()
    for node in case.nodes:
        model = node(model)
    clock, first = StepClock(model.load_device), []

    def callback(*_: object) -> None:
        if not first:
            _wait(model.load_device)
            first.append(time.perf_counter() - begin)
        clock.mark()

    with Peak(budget) as peak:
        latent = sample(work, model, steps, callback)
        took = [0.0, *clock.intervals()[:-1]]  # of step 1 and on; the last interval is what follows the steps
    log = model.get_attachment(ATTACHMENT)
    skipped = [not step.full for step in log.latest()[-1].steps] if log else [False] * steps
    result.steps = [spent for spent, out in list(zip(took, skipped, strict=True))[WARM:] if out == case.skipped]
    result.first_seconds, result.seconds = first[0], statistics.median(result.steps) if result.steps else None
    result.memory = "dynamic" if model.is_dynamic() else "classic"
    result.graphs, result.graph_breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    result.peak_gib = peak.gib and round(peak.gib, 2)
    if not latent.isfinite().all():
        result.error = "the latent holds NaN or infinity"
    elif not result.steps:
        result.error = "no such step in the run"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
