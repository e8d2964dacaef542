"""Step caches when a run goes wrong, what they leave behind, and whether they tell the truth about it."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.memory_management
import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast
from velocity_nodes.acceleration.report.step_clock import StepClock
from velocity_nodes.acceleration.report.telemetry import ATTACHMENT

from .sampling import full_passes, last_record, psnr, sample, stock, tiny_flux
from .techniques import Technique, each


def living_tensors() -> int:
    """Return how many tensors the process holds."""
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def stop_at(step: int, error: BaseException):
    """Return a callback of the sampler that raises at a step."""

    def callback(index: int, *_: object) -> None:
        if index == step:
            raise error

    return callback


@each
@pytest.mark.parametrize(
    "error",
    [comfy.model_management.InterruptProcessingException(), RuntimeError("out of luck")],
    ids=["interrupt", "error"],
)
def test_a_run_that_ends_midway_leaves_nothing(technique: Technique, error: BaseException) -> None:
    model = technique.apply(tiny_flux())
    fresh = sample(model)
    records, before = len(model.get_attachment(ATTACHMENT)), living_tensors()
    with pytest.raises(type(error)):
        sample(model, callback=stop_at(11, error))
    error.__traceback__ = error.__context__ = None  # it holds the frames of the run, and so its tensors
    assert living_tensors() <= before
    assert len(model.get_attachment(ATTACHMENT)) == records + 1
    record = last_record(model)
    assert not record.completed and len(record.steps) == 12 and "(interrupted)" in record.summary()
    again = sample(model)
    assert torch.equal(again.latent, fresh.latent)
    assert again.passes == fresh.passes


@each
def test_an_error_inside_the_model_leaves_nothing(technique: Technique) -> None:
    """The model itself fails, where First Block Cache has its slots in place of the blocks."""
    model = technique.apply(tiny_flux())
    fresh, blocks = sample(model), tiny_flux().model.diffusion_model.single_blocks
    before, calls = living_tensors(), []

    def fail(_block, _args, _output) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("no memory left")

    hook = blocks[4].register_forward_hook(fail)
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            sample(model)
    finally:
        hook.remove()
    del caught
    assert tiny_flux().model.diffusion_model.single_blocks is blocks
    assert living_tensors() <= before
    assert torch.equal(sample(model).latent, fresh.latent)
    assert torch.equal(sample(tiny_flux()).latent, stock().latent)


@each
def test_runs_do_not_pile_up(technique: Technique) -> None:
    model = technique.apply(tiny_flux())
    sample(model, steps=8, cfg=2.0)
    before, options = living_tensors(), str(model.model_options)
    for _ in range(3):
        sample(model, steps=8, cfg=2.0)
    assert living_tensors() <= before
    assert str(model.model_options) == options
    assert set(model.wrappers.get(WrappersMP.CALC_COND_BATCH, {})) == set()
    del model
    assert living_tensors() <= before


@contextmanager
def broken_once(poison: float, at: int = 2) -> Iterator[None]:
    """The last block of the model breaks in its `at`-th call."""
    calls: list[int] = []

    def poisoned(_block, _args, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output + poison if len(calls) == at else output

    hook = tiny_flux().model.diffusion_model.single_blocks[-1].register_forward_hook(poisoned)
    try:
        yield
    finally:
        hook.remove()


@each
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_no_number_is_never_reused(technique: Technique, poison: float) -> None:
    """A post CFG function repairs the broken output, so the sampler goes on; what the cache saw is still broken."""
    repaired = tiny_flux().clone()
    repaired.set_model_sampler_post_cfg_function(lambda args: torch.nan_to_num(args["denoised"], 0.0, 1.0, -1.0))
    with broken_once(poison):
        reference = sample(repaired)
    model = technique.apply(repaired)
    with broken_once(poison):
        result = sample(model)
    assert psnr(stock(), reference) < 50, "the broken step changed nothing: it proves nothing"
    assert all(step.full for step in last_record(model).steps[:3])
    assert len(result.passes) < 20  # it recovers
    assert psnr(reference, result) > 25  # the repaired step left the path that the model knows


@each
@pytest.mark.parametrize("settings", [{}, {"cfg": 2.0}, {"sampler": "heun", "steps": 12}], ids=str)
def test_the_record_counts_what_the_model_saw(technique: Technique, settings: dict) -> None:
    model = technique.apply(tiny_flux())
    sigmas = []
    watched = model.clone()

    def count(executor, x, timestep, *args):
        sigmas.append(float(timestep[0]))
        return executor(x, timestep, *args)

    watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count", count)
    result = sample(watched, **settings)
    record = last_record(model)  # clones report into one log
    assert record.completed
    assert record.technique in ("Velocity Forecast", "First Block Cache")
    assert record.model == "Flux"
    assert record.planned_steps == settings.get("steps", 20)
    assert [step.sigma for step in record.steps] == pytest.approx(sigmas)
    assert record.full == len(result.passes)
    assert record.skipped == len(sigmas) - len(result.passes) > 0
    assert 0 < sum(step.seconds for step in record.steps) <= record.seconds


@each
def test_one_line_is_logged_for_a_run(technique: Technique, caplog: pytest.LogCaptureFixture) -> None:
    model = technique.apply(tiny_flux())
    with caplog.at_level(logging.INFO, logger="velocity"), full_passes(model) as seen:
        sample(model)
    (line,) = [entry.getMessage() for entry in caplog.records if entry.name == "velocity"]
    record = last_record(model)
    assert f"20 model calls, {len(seen)} full, {20 - len(seen)} skipped" in line
    assert f"about {record.seconds_saved:.2f} s saved" in line


def test_a_quality_promise_can_be_broken() -> None:
    """The measure of these tests is one: a cache that skips too much scores low."""
    greedy = apply_velocity_forecast(tiny_flux(), ForecastConfig(tolerance=100.0, order=0, final_steps=0))
    assert psnr(stock(), sample(greedy)) < 25


def test_a_step_begins_when_the_one_before_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off CUDA the host's clock tells: what is queued on the device ends when a value is asked for."""
    events, item, mark = [], torch.Tensor.item, StepClock.mark
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: events.append("waited") or item(tensor), raising=False)
    monkeypatch.setattr(StepClock, "mark", lambda clock: events.append("marked") or mark(clock))
    model = apply_velocity_forecast(tiny_flux(), ForecastConfig())
    sample(model, steps=4, callback=lambda *_: events.append("step"))
    begins = [events[place + 1 : place + 3] for place, event in enumerate(events) if event == "step"]
    assert begins[:-1] == [["waited", "marked"]] * 3


@pytest.mark.parametrize(("dynamic", "peak"), [(False, 5), (True, None)])
def test_peak_memory_is_not_told_where_torch_does_not_count_the_weights(
    monkeypatch: pytest.MonkeyPatch, dynamic: bool, peak: int | None
) -> None:
    clock = StepClock(torch.device("cpu"))
    clock._cuda = True
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 5)
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", dynamic)
    assert clock.peak_memory() == peak
