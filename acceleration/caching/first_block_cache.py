"""First Block Cache: run block 0, compare what it adds with before, skip the other blocks where it tells nothing new.

The idea is ParaAttention's First Block Cache: the residual of the first transformer block is a cheap probe of the
actual input. Two decisions: `change` compares it with the last full step's (the classic rule), `verified` with its own
forecast, so that a steady change counts as predictable. Two predictors: `output forecast` stops the forward and returns
the extrapolated output (`forecast.py`), `tail residual` adds what blocks 1..n added in the last full step (classic).

Invariants: threshold 0 is bit-identical to no node. All conditionings of a step are decided together, the worst sample
decides: when a later batch of the same step disagrees with a skip, the step runs again in full.
"""

import contextlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..blocks.allocation_graph import without_allocation_graph
from ..blocks.block_stack import BlockCall, architecture_of, require_visits, visit_blocks
from ..blocks.unet_blocks import is_unet, watch_first_block
from .forecast import lagrange, weighted_sum
from .stateful_patches import refuse_stateful
from .step_cache import apply_step_cache
from .tail_residual import TailResidual
from .technique import Attempt, Call, Outputs

DECISIONS = ("change", "verified")
PREDICTORS = ("output forecast", "tail residual")
KEY = "velocity_first_block"  # of the wrapper around a run
MOST_TOKENS = 1024  # of the probe are kept: enough for a mean, and little memory on video


@dataclass(frozen=True)
class FirstBlockCacheConfig:
    """`residual_diff_threshold` bounds the relative difference of block 0's residual while skipping; 0 skips nothing.

    `forecast_order` serves the output forecast and the `verified` decision. Steps before `start_percent` and after
    `end_percent` of the schedule (0..1) are full, as is one after `max_consecutive_hits` skipped ones (-1: no limit).
    """

    residual_diff_threshold: float = 0.2
    decision: str = "verified"
    predictor: str = "output forecast"
    forecast_order: int = 1
    start_percent: float = 0.1
    end_percent: float = 1.0
    max_consecutive_hits: int = -1

    def __post_init__(self) -> None:
        if not self.residual_diff_threshold >= 0.0:
            raise ValueError(f"residual_diff_threshold is {self.residual_diff_threshold}; use 0 (skip nothing) or more")
        if self.decision not in DECISIONS or self.predictor not in PREDICTORS:
            raise ValueError(
                f"decision {self.decision!r} or predictor {self.predictor!r} is unknown; "
                f"choose from {', '.join(DECISIONS)} and {', '.join(PREDICTORS)}"
            )
        if self.forecast_order not in (0, 1, 2):
            raise ValueError(f"forecast_order is {self.forecast_order}; choose 0, 1 or 2")


def apply_first_block_cache(model: ModelPatcher, config: FirstBlockCacheConfig) -> ModelPatcher:
    """Return a clone of `model` that skips where its first block says so.

    Raises `UnsupportedModelError` for a model whose blocks are not known, and `ValueError` for a tail residual where
    the architecture has none; when sampled with a second step cache, `ValueError`.
    """
    diffusion_model = model.get_model_object("diffusion_model")
    if not is_unet(diffusion_model):
        tail_residual = architecture_of(diffusion_model).tail_residual
    else:
        tail_residual = False
    if config.predictor == "tail residual" and not tail_residual:
        raise ValueError(
            f"the blocks of {type(diffusion_model).__name__} do more than add to their input, so their tail residual "
            "can't be reused; choose the predictor 'output forecast'"
        )

    def technique(patcher: ModelPatcher) -> FirstBlockTechnique:
        return FirstBlockTechnique(config, patcher.get_model_object("model_sampling"))

    model = apply_step_cache(model, technique)
    if config.residual_diff_threshold:  # with 0 no block is watched
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample)
    return model


@without_allocation_graph()
def _outer_sample(executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
    refuse_stateful(executor.class_obj.model_options.get("transformer_options", {}))
    return executor(*args, **kwargs)


class _StopForward(Exception):
    """Block 0 has run and the rest is not needed."""


class _StartOver(Exception):
    """A batch of conditionings needs the full step, but one before it was skipped."""


# Which evaluation in the step, the uuids of the conditionings in one batch, how many batches with them came before.
Key = tuple[int, tuple, int]


class FirstBlockTechnique:
    """The technique of one run."""

    name = "First Block Cache"

    def __init__(self, config: FirstBlockCacheConfig, model_sampling: Any) -> None:
        self.limit = config.residual_diff_threshold
        self.order = config.forecast_order
        self.most_skips = config.max_consecutive_hits
        self.verified = config.decision == "verified"
        self.tail = TailResidual() if config.predictor == "tail residual" else None
        self.from_sigma = model_sampling.percent_to_sigma(config.start_percent)
        self.to_sigma = model_sampling.percent_to_sigma(config.end_percent)
        self.probes: dict[Key, list[tuple[float, torch.Tensor]]] = {}
        self.call: Call | None = None
        self.visits = 0
        self.lock = threading.Lock()

    def in_window(self, index: int, steps: int, sigma: float) -> bool:
        """Only between `start_percent` and `end_percent` of the schedule, and never the last step."""
        return self.to_sigma <= sigma <= self.from_sigma and index < steps - 1

    def attempt(self, call: Call, run_model: Callable[[], Outputs]) -> Attempt:
        """Run block 0 of every batch; go on with the rest of the model as soon as one asks for it."""
        self._begin(call, deciding=True)
        with contextlib.suppress(_StartOver):
            outputs = run_model()
        metric = self.metric
        if self.skips and not self.full:
            if self.verified:
                call.stream.drift = metric
            return Attempt(outputs if self.tail else None, metric, skipped=True)
        if self.skips:  # a batch that came later asked for the full step
            outputs = self.observe(call, run_model)
        return Attempt(outputs, metric, skipped=False)

    def observe(self, call: Call, run_model: Callable[[], Outputs]) -> Outputs:
        """Run the model in full, noting what block 0 adds."""
        self._begin(call, deciding=False)
        return run_model()

    def wrappers(self) -> dict[str, Callable]:
        """The model's call is where its blocks are watched."""
        return {WrappersMP.APPLY_MODEL: self.apply_model}

    def forget(self) -> None:
        """Free the tensors of the run."""
        self.probes.clear()
        self.tail = self.call = None

    def _begin(self, call: Call, deciding: bool) -> None:
        """Start an evaluation: so many batches were skipped, whether one asked for the full step, the worst metric."""
        self.call = call
        self.metric, self.skips, self.full = None, 0, not deciding
        self.seen: dict[tuple, int] = {}

    def apply_model(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the model (x, t, c_concat, c_crossattn, control, transformer_options) with its first block watched."""
        if self.call is None:
            return executor(*args, **kwargs)
        options = args[5]
        uuids = tuple(options["uuids"])
        occurrence = self.seen[uuids] = self.seen.get(uuids, -1) + 1
        watch = _Watch(self, (self.call.ordinal, uuids, occurrence), len(args[0]))
        watch.in_thread = "multigpu_thread_device" in options  # of core's MultiGPU CFG Split
        diffusion_model = executor.class_obj.diffusion_model
        original = getattr(diffusion_model, "_orig_mod", diffusion_model)
        try:
            if is_unet(original):
                watched = watch_first_block(options, watch.unet_residual)
                output = executor(*args[:5], watched, *args[6:], **kwargs)
            elif original is diffusion_model:
                with visit_blocks(original, watch.visit):
                    output = executor(*args, **kwargs)
            else:
                output = self._apply_compiled(executor, original, watch, args, kwargs)
        except _StopForward:
            return torch.zeros_like(args[0])
        require_visits(original, self.visits)
        return output

    def _apply_compiled(self, executor: Callable, original: Any, watch: "_Watch", args: tuple, kwargs: dict) -> Any:
        """A model compiled as a whole: probe the original first, so that no slot comes into the compiled graph."""
        if self.tail:
            raise ValueError(
                "the predictor 'tail residual' can't look into a model that is compiled as a whole; choose "
                "'output forecast', or compile block by block"
            )
        watch.only_probe = True
        try:
            with torch.compiler.set_stance("force_eager"), visit_blocks(original, watch.visit):
                executor(*args, **kwargs)
        except _StopForward:
            if watch.skipped:
                raise
        return executor(*args, **kwargs)

    def decide(self, key: Key, probe: torch.Tensor) -> bool:
        """Return whether the rest is skipped, given the thin residual (B, ...) of one batch; note it if it is not."""
        self.visits += 1
        known = self.probes.setdefault(key, [])
        if known and (known[-1][1].shape != probe.shape or known[-1][0] < self.call.time):
            known.clear()
        if not self.full:
            metric = self._difference(known, probe)
            self.metric = metric if self.metric is None else max(metric, self.metric)
            if metric < self.limit:  # False for NaN
                self.skips += 1
                return True
            self.full = True
        while known and known[-1][0] <= self.call.time:
            known.pop()
        known.append((self.call.time, probe))
        del known[: -(self.order + 1)]
        return False

    def _difference(self, known: list[tuple[float, torch.Tensor]], probe: torch.Tensor) -> float:
        """Relative difference (L1, of the worst sample) between the probe and what it was expected to be.

        For `verified`: the sum with those of the steps skipped before this one, each times its share of a mean step
        and times what guidance makes of an error.
        """
        if not known:
            return math.inf
        used = known if self.verified else known[-1:]
        weights = lagrange([time for time, _ in used], self.call.time)
        expected = weighted_sum(weights, [tensor for _, tensor in used])
        difference = (probe - expected).abs().flatten(1).mean(1) / expected.abs().flatten(1).mean(1)
        worst = difference.max().item()
        if not self.verified:
            return worst
        stream = self.call.stream
        return stream.drift + worst * self.call.share * stream.history.amplification(self.call.time)


class _Watch:
    """Watches one call of the model, which evaluates one batch of conditionings."""

    def __init__(self, technique: FirstBlockTechnique, key: Key, samples: int) -> None:
        self.technique = technique
        self.key = key
        self.samples = samples
        self.skipped = False
        self.only_probe = False
        self.in_thread = False

    def on_residual(self, probe: torch.Tensor) -> None:
        """Decide; stop the forward when the forecast answers."""
        with self.technique.lock:
            self.skipped = self.technique.decide(self.key, probe)
            if self.technique.full and self.technique.skips and not self.in_thread:
                raise _StartOver  # threads are left to finish: one that goes on would meet the second attempt
        if self.only_probe or (self.skipped and self.technique.tail is None):
            raise _StopForward

    def visit(self, call: BlockCall) -> Any:
        """See one block call of a transformer."""
        tail = self.technique.tail
        if call.stack_index or call.index:
            return tail.visit(call, self.key, self.skipped) if tail else call.run()
        before = self._measured(call, call.streams())  # a copy: blocks add in place
        output = call.run()
        self.on_residual(self._measured(call, call.unpack(output)).sub_(before))
        if tail:
            tail.enter(self.key, call.stack_index, call.unpack(output), self.skipped)
        return output

    def unet_residual(self, residual: torch.Tensor) -> None:
        """See what the first block of a UNet adds (B, channels, height, width)."""
        self.on_residual(_thin(residual.movedim(1, -1)))

    def _measured(self, call: BlockCall, streams: dict[str, Any]) -> torch.Tensor:
        """A thin copy of the stream to measure, or of its first part (video before audio)."""
        stream = streams[call.stack.measured]
        tensor = stream if isinstance(stream, torch.Tensor) else stream[0]
        if call.stack.packed:
            tensor = tensor.unflatten(0, (self.samples, -1))
        return _thin(tensor.movedim(call.stack.batch_dim, 0))


def _thin(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy (B, tokens, channels) of at most about `MOST_TOKENS` positions of (B, ..., channels).

    In float32: the rounding of bfloat16 (0.4 %) would count as a change, and guidance multiplies it.
    """
    tokens = tensor.flatten(1, -2) if tensor.ndim > 2 else tensor[:, None]
    return tokens[:, :: max(1, tokens.shape[1] // MOST_TOKENS)].to(torch.float32, copy=True)
