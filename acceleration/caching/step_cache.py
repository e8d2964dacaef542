"""The engine that skips model calls within a sampling run; what decides is a `Technique` (`technique.py`).

It sits where the guider evaluates all its conditionings at once (ComfyUI's CALC_COND_BATCH wrapper). There one decision
covers cond and uncond however core batches them, ControlNets of a skipped step are not run either, and guiders, CFG
functions and samplers see ordinary outputs. History is kept as velocity (`forecast.FlowFrame`), so flow, eps and v
prediction models are treated alike.

Invariants: a run's state lives in closures added to that run's own model options, and dies with it; the model and its
other clones are never touched; with limit 0 every call goes straight through.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider

from ..report.step_clock import StepClock
from ..report.telemetry import ATTACHMENT, RunLog, RunRecord, StepRecord
from .active_conditioning import evaluations, signature
from .forecast import FlowFrame, History, norms, weighted_sum
from .packed_latent import Shapes, part_sizes
from .sampler_path import SamplerPath
from .technique import Attempt, Call, Outputs, Stream, Technique

KEY = "velocity_step_cache"
RIVALS = {"easycache": "EasyCache", "lazycache": "LazyCache"}  # wrapper keys of core's own step caches
CORRECTION = 0.6  # share of the drift that is given back: what a full step reveals of it is an estimate as well
CFG_FUNCTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")
JUMP = 0.25  # a latent further than this (relative) from where the last call led is another trajectory


def apply_step_cache(model: ModelPatcher, technique: Callable[[ModelPatcher], Technique]) -> ModelPatcher:
    """Return a clone of `model` whose sampling runs go through a step cache.

    `technique` is called with the run's model and returns the run's technique.
    """
    model = model.clone()

    def outer_sample(executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        guider = executor.class_obj
        _refuse_rivals(guider.model_options)
        run = _Run(technique(guider.model_patcher), guider, args[3], kwargs.get("latent_shapes"))
        try:
            output = executor(*args, **kwargs)
            run.record.completed = True
            return output
        finally:
            run.close()
            log = guider.model_patcher.attachments.get(ATTACHMENT)
            if log is not None:
                log.add(run.record)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    if ATTACHMENT not in model.attachments:
        model.set_attachments(ATTACHMENT, RunLog())
    return model


def _refuse_rivals(model_options: dict[str, Any]) -> None:
    """Raise `ValueError` when two step caches would decide about the same steps."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.OUTER_SAMPLE, {})
    rivals = [name for key, name in RIVALS.items() if wrappers.get(key)]
    if len(wrappers.get(KEY, ())) > 1:
        rivals.append("another Velocity Forecast or First Block Cache")
    if rivals:
        raise ValueError(
            f"this model has two step caches: a Velocity node and {' and '.join(rivals)}. "
            "Each would mistake the other's guesses for the model's output: remove or bypass all but one"
        )


class _Run:
    """One sampling run of one guider."""

    def __init__(self, technique: Technique, guider: Any, sigmas: torch.Tensor, shapes: Shapes | None) -> None:
        self.technique = technique
        self.guider = guider
        self.shapes = shapes
        self.sigmas: list[float] = sigmas.tolist()
        self.frame = FlowFrame(straight=isinstance(guider.model_patcher.get_model_object("model_sampling"), CONST))
        self.times = [self.frame.time(sigma) for sigma in self.sigmas]
        self.mean_length = abs(self.times[0] - self.times[-1]) / max(1, len(self.times) - 1) or 1.0
        self.streams: dict[int, Stream] = {}
        self.path = SamplerPath()
        self.ordinal = 0
        self.skip_step = False
        device = guider.model_patcher.load_device
        self.clock = StepClock(device)
        self.record = RunRecord(
            technique=technique.name,
            model=type(guider.model_patcher.model.diffusion_model).__name__,
            device=str(device),
            planned_steps=len(self.sigmas) - 1,
        )
        self.started = time.perf_counter()
        for kind, wrapper in {
            WrappersMP.PREDICT_NOISE: self.predict_noise,
            WrappersMP.CALC_COND_BATCH: self.calc_cond_batch,
            **technique.wrappers(),
        }.items():
            add_wrapper_with_key(kind, KEY, wrapper, guider.model_options, is_model_options=True)

    def predict_noise(
        self, executor: Callable, x: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Mark the begin of one call of the denoiser by the sampler, and note where its answer leads."""
        self.ordinal = 0
        sigma = timestep.flatten()[0].item()  # waits for the step before, whose time the host's clock would miss
        self.clock.mark()
        if not self.technique.limit or sigma <= 0.0:
            return executor(x, timestep, *args, **kwargs)
        self.path.parts = part_sizes(x, (), self.shapes)
        self.path.here, self.path.now = self.frame.position(x, sigma), self.frame.time(sigma)
        denoised = executor(x, timestep, *args, **kwargs)
        self.path.leave(self.frame.velocity(x, denoised, sigma))
        return denoised

    def calc_cond_batch(
        self, executor: Callable, model: Any, conds: list, x: torch.Tensor, timestep: torch.Tensor, options: dict
    ) -> Outputs:
        """Answer one evaluation of the conditionings, from the model or from history."""
        if "ar_state" in options.get("transformer_options", {}):
            raise ValueError(
                "the ar_video sampler hands state from each model call to the next, so none can be skipped: "
                f"remove or bypass {self.technique.name}"
            )
        ordinal, self.ordinal = self.ordinal, self.ordinal + 1

        def run_model() -> Outputs:
            return executor(model, conds, x, timestep, options)

        level = timestep.flatten()[0].cpu()
        sigma = level.item()
        index = self._index(sigma)
        if not self.technique.limit or sigma <= 0.0:
            self._note(ordinal, StepRecord(index, sigma, 0.0, full=True))
            return run_model()
        call = self._open(ordinal, conds, x, level, index)
        asked = evaluations(conds, call.stream.active[1:], x.shape[2:])
        note = StepRecord(index, sigma, 0.0, full=True, evaluations=(asked,))
        if self._may_skip(ordinal, call):
            # A second evaluation within a skipped step (for example perturbed attention) is skipped with it.
            attempt = Attempt(None, None, skipped=True) if ordinal else self.technique.attempt(call, run_model)
            if attempt.metric is not None:
                note.metric, note.limit = attempt.metric, self.technique.limit
            if attempt.skipped:
                note.full = False
                self._note(ordinal, note)
                return self._skip(call, conds, attempt.outputs)
            outputs = attempt.outputs
        else:
            outputs = self.technique.observe(call, run_model)
        self._note(ordinal, note)
        return self._keep(call, conds, outputs)

    def close(self) -> None:
        """Finish the record and free every tensor of the run."""
        seconds = self.clock.intervals()
        self.record.seconds = time.perf_counter() - self.started
        self.record.peak_memory = self.clock.peak_memory()
        for step, spent in zip(self.record.steps, seconds, strict=False):
            step.seconds = spent
        self.streams.clear()
        self.path = SamplerPath()
        self.technique.forget()

    def _note(self, ordinal: int, step: StepRecord) -> None:
        """Record how the sampler's call was answered: its first evaluation speaks for all, the others cost."""
        if ordinal == 0:
            self.skip_step = not step.full
            self.record.steps.append(step)
        else:
            self.record.steps[-1].evaluations += step.evaluations

    def _index(self, sigma: float) -> int:
        """Step of the schedule that `sigma` belongs to: the last whose sigma is not below it (with rounding)."""
        below = [i for i, planned in enumerate(self.sigmas[:-1]) if planned >= sigma * (1.0 - 1e-4)]
        return below[-1] if below else 0

    def _open(self, ordinal: int, conds: list, x: torch.Tensor, level: torch.Tensor, index: int) -> Call:
        """Return the call with its stream, emptied when what it remembers no longer applies."""
        stream = self.streams.get(ordinal)
        sigma = level.item()
        now, then = self.frame.time(sigma), self.times[min(index + 1, len(self.times) - 1)]
        parts = part_sizes(x, conds, self.shapes)
        active = ((tuple(x.shape), parts), *(signature(cond, level) for cond in conds))
        if stream is None or stream.active != active or now > stream.time:
            self.streams[ordinal] = stream = Stream(History(self.technique.order, parts), active, time=now)
        # A sampler that leaves the schedule goes on from here by a step of about the planned length.
        length = min(then - now, then - self.times[index])
        return Call(x, sigma, now, length, abs(length) / self.mean_length, index, ordinal, stream)

    def _may_skip(self, ordinal: int, call: Call) -> bool:
        """Whether there is enough history, and nothing forbids to skip."""
        stream, most = call.stream, self.technique.most_skips
        if not stream.history.ready or not self.technique.in_window(call.index, len(self.sigmas) - 1, call.sigma):
            return False
        if 0 <= most <= stream.skips or (ordinal and not self.skip_step):
            return False
        if self._jumped(call):
            stream.history.clear()
            return False
        if not self.path.followed():  # then an error counts in full, not by the step's length, and does not add up
            call.length, call.share, stream.drift = -call.time, call.time / self.mean_length, 0.0
        return True

    def _jumped(self, call: Call) -> bool:
        """Whether the latent is not where the last call led: another context window, fresh noise, a restart."""
        stream, here = call.stream, self.frame.position(call.x, call.sigma)
        distance = here - stream.latent - stream.velocity * (call.time - stream.time)
        off, size = (norms(tensor, stream.history.parts) for tensor in (distance, here))
        return not bool((off <= JUMP * size).all())  # True for NaN

    def _skip(self, call: Call, conds: list, outputs: Outputs | None) -> Outputs:
        """Answer with the technique's own outputs or the forecast."""
        call.stream.skips += 1
        if outputs is not None:
            self._remember(call, conds, self._velocities(call, conds, outputs))
            return outputs
        call.stream.skipped.append((call.time, call.length))
        velocity = call.stream.history.extrapolate(call.time)
        self._remember(call, conds, velocity)
        return self._outputs(call, conds, velocity)

    def _keep(self, call: Call, conds: list, outputs: Outputs) -> Outputs:
        """Add a full call to the history; give back part of the drift that it reveals in the skipped calls before."""
        stream = call.stream
        velocity = self._velocities(call, conds, outputs)
        stream.history.add(call.time, velocity, self._mixtures(conds))
        if stream.skipped and self.path.follows and call.length and len(stream.history) > 1:
            # Near the image the model pulls a drifted latent back by itself, and its answer shows that pull as well.
            span = abs(sum(length for _, length in stream.skipped))
            share = CORRECTION * call.time / (call.time + span)
            velocity = velocity + stream.history.drift(stream.skipped) * (share / call.length)
            outputs = self._outputs(call, conds, velocity)
        stream.skips, stream.skipped, stream.drift = 0, [], 0.0
        self._remember(call, conds, velocity)
        return outputs

    def _remember(self, call: Call, conds: list, velocity: torch.Tensor) -> None:
        """Note where the sampler is and where this answer leads it."""
        stream = call.stream
        stream.latent, stream.time = self.frame.position(call.x, call.sigma).clone(), call.time
        stream.velocity = weighted_sum(self._mixtures(conds)[0], list(velocity))

    def _velocities(self, call: Call, conds: list, outputs: Outputs) -> torch.Tensor:
        """Denoised outputs -> velocities (C, B, ...) of the conditionings that are there."""
        present = torch.stack([out for cond, out in zip(conds, outputs, strict=True) if cond is not None])
        return self.frame.velocity(call.x, present, call.sigma)

    def _outputs(self, call: Call, conds: list, velocity: torch.Tensor) -> Outputs:
        """Velocities (C, B, ...) -> denoised outputs, zeros where core has them."""
        present = iter(self.frame.denoised(call.x, velocity, call.sigma))
        return [torch.zeros_like(call.x) if cond is None else next(present) for cond in conds]

    def _mixtures(self, conds: list) -> list[list[float]]:
        """Return the weights with which the guider may add up the conditionings that are there, likeliest first.

        Core's guider mixes by its scale; functions of other nodes may change the result, so that either conditioning
        by itself counts as well. What a guider of another kind does with its scale is unknown: each counts.
        """
        count = sum(cond is not None for cond in conds)
        each = [[float(i == j) for j in range(count)] for i in range(count)]
        mixes = getattr(self.guider.predict_noise, "__func__", None) is CFGGuider.predict_noise
        if not mixes or len(conds) != 2 or count != 2:
            return each
        plain = [float(self.guider.cfg), 1.0 - float(self.guider.cfg)]
        return [plain, *each] if any(map(self.guider.model_options.get, CFG_FUNCTIONS)) else [plain]
