"""A forward that ends early leaves nothing of core's open, and takes nothing from another thread."""

import threading
from types import SimpleNamespace

import comfy.model_management
import comfyui_version
import pytest
import torch
from comfy.cli_args import args
from velocity_nodes.acceleration.blocks.allocation_graph import without_allocation_graph
from velocity_nodes.acceleration.blocks.block_stack import UnsupportedModelError, visit_blocks
from velocity_nodes.acceleration.compiling.compile import CompileConfig, _CompiledRun

from .prefetch_stand_in import ModelPrefetch, install, open_graphs
from .sampling import sample, stock, tiny_flux
from .techniques import FIRST_BLOCK, FIRST_BLOCK_TAIL, FORECAST
from .test_first_block_every_model import Host, call_at, host_of, warmed_up
from .tiny_models import BUILDERS

STREAMING = ("MiniMax H3", "LTX-2")  # the models of core that stream their blocks' weights
REFERENCE = tuple(int(part) for part in comfyui_version.__version__.split(".")) >= (0, 30, 0)
streaming = pytest.mark.skipif(not REFERENCE, reason="an older ComfyUI streams no weights")


@pytest.fixture
def prefetch(monkeypatch: pytest.MonkeyPatch) -> ModelPrefetch:
    """Core's streaming, with its allocation graph on."""
    return install(monkeypatch)


@streaming
@pytest.mark.parametrize("old_signature", [True, False], ids=["0.30", "newer"])
@pytest.mark.parametrize("name", STREAMING)
def test_whatever_ends_a_forward_nothing_stays_pinned_or_open(monkeypatch, name: str, old_signature: bool) -> None:
    fake, tiny = install(monkeypatch, old_signature=old_signature), BUILDERS[name]()
    errors = (comfy.model_management.InterruptProcessingException(), UnsupportedModelError("x"), KeyError("stop"))
    with open_graphs(tiny.diffusion_model, fake):
        for at, error in zip((0, 1, 2), errors, strict=True):

            def stop(call, at=at, error=error):
                if call.index == at:
                    assert len(fake.pinned) == 1
                    raise error
                return call.run()

            with pytest.raises(type(error)), visit_blocks(tiny.diffusion_model, stop):
                tiny.call(1)
            assert fake.nothing_left()
        tiny.call(1)
    assert fake.nothing_left() and fake.ended == 1 and fake.aborted == 3


@streaming
def test_two_techniques_in_one_model_leave_nothing(prefetch: ModelPrefetch) -> None:
    """Core's queue holds the slots of the one opened last."""
    tiny = BUILDERS["MiniMax H3"]()

    def stop(call):
        raise KeyError("stop")

    with pytest.raises(KeyError), visit_blocks(tiny.diffusion_model, stop):
        with visit_blocks(tiny.diffusion_model, lambda call: call.run()):
            tiny.call(1)
    assert prefetch.nothing_left()


class TwoBatches(Host):
    """A step whose conditionings come in two batches."""

    batches = (["one"], ["two"])

    def run(self, seed: int) -> list[torch.Tensor]:
        self.seed, outputs = seed, []
        for uuids in self.batches:
            options = {"uuids": uuids, "cond_or_uncond": [0], "sigmas": torch.tensor([0.7])}
            outputs.append(self.technique.apply_model(self, torch.zeros(1, 4), None, None, None, None, options))
        return outputs


class CompiledWhole(Host):
    """The model as `torch.compile` around the whole of it shows it."""

    @property
    def diffusion_model(self) -> SimpleNamespace:
        return SimpleNamespace(_orig_mod=self.model.diffusion_model)


@streaming
@pytest.mark.parametrize("name", STREAMING)
def test_first_block_cache_leaves_nothing_however_it_stops(prefetch: ModelPrefetch, name: str) -> None:
    """Without the guard of a sampling run: a skip, a step that starts over, the probe of a model compiled whole."""
    tiny = BUILDERS[name]()
    skip, full = {"residual_diff_threshold": 1e30}, {"residual_diff_threshold": 1e-30}
    with open_graphs(tiny.diffusion_model, prefetch):
        host = host_of(tiny, **skip)
        warmed_up(host)
        begun = prefetch.begun
        assert host.technique.attempt(call_at(0.7), lambda: host.run(3)).skipped
        assert prefetch.begun == begun + 1 and prefetch.nothing_left()

        host = TwoBatches(tiny, host.technique)  # the second batch is unknown, and so asks for the full step
        assert not host.technique.attempt(call_at(0.6), lambda: host.run(3)).skipped
        assert prefetch.begun == begun + 1 + 2 + 2 and prefetch.nothing_left()

        for settings in (skip, full):
            host = CompiledWhole(tiny, host_of(tiny, **settings).technique)
            warmed_up(host)
            assert host.technique.attempt(call_at(0.7), lambda host=host: host.run(3)).skipped == (settings is skip)
            assert prefetch.nothing_left()


@streaming
def test_a_stopped_forward_leaves_the_weights_of_other_threads_alone(prefetch: ModelPrefetch) -> None:
    """Under MultiGPU CFG Split each device has its own copy of the model and its own thread."""
    other, waiting, go_on = BUILDERS["MiniMax H3"](), threading.Event(), threading.Event()

    def wait(call):
        if call.index == 1:
            waiting.set()
            assert go_on.wait(30)
        return call.run()

    def run_other():
        with visit_blocks(other.diffusion_model, wait), open_graphs(other.diffusion_model, prefetch):
            other.call(1)

    thread = threading.Thread(target=run_other)
    thread.start()
    try:
        assert waiting.wait(30)
        held, host = list(prefetch.pinned), host_of(BUILDERS["MiniMax H3"](), residual_diff_threshold=1e30)
        warmed_up(host)
        assert host.technique.attempt(call_at(0.7), lambda: host.run(3)).skipped
        assert prefetch.pinned == held and len(held) == 1 and len(prefetch.open) == 1
    finally:
        go_on.set()
        thread.join(30)
    assert prefetch.nothing_left() and prefetch.ended == 1


@pytest.mark.parametrize("technique", [FIRST_BLOCK, FIRST_BLOCK_TAIL], ids=lambda technique: technique.name)
def test_no_graph_is_open_in_a_run_that_watches_blocks(prefetch: ModelPrefetch, technique) -> None:
    """So nothing that is kept from block to block or from step to step is allocated within one."""
    with open_graphs(tiny_flux().model.diffusion_model, prefetch):
        result = sample(technique.apply(tiny_flux()))
        assert len(result.passes) < 20 and prefetch.begun == 0
        assert args.disable_comfy_compiler is False
        sample(technique.never(tiny_flux()), steps=4)  # watches nothing, so core may do what it does
        assert prefetch.begun == 4 and prefetch.nothing_left()


def test_velocity_forecast_opens_no_graph_for_a_step_that_it_skips(prefetch: ModelPrefetch) -> None:
    with open_graphs(tiny_flux().model.diffusion_model, prefetch):
        result = sample(FORECAST.apply(tiny_flux()))
    assert prefetch.begun == len(result.passes) < 20 and prefetch.nothing_left()


def test_the_switch_comes_back_after_an_error_and_an_interrupt(prefetch: ModelPrefetch) -> None:
    for error in (RuntimeError("out of luck"), comfy.model_management.InterruptProcessingException()):

        def fail(step: int, *_: object, error=error) -> None:
            assert args.disable_comfy_compiler is True
            raise error

        with pytest.raises(type(error)):
            sample(FIRST_BLOCK.apply(tiny_flux()), steps=4, callback=fail)
        assert args.disable_comfy_compiler is False
    assert not [name for name in vars(args) if "velocity" in name]


def test_the_switch_comes_back_when_the_last_of_several_runs_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    first, second = without_allocation_graph(), without_allocation_graph()
    first.__enter__()
    second.__enter__()
    with without_allocation_graph():
        pass
    first.__exit__(None, None, None)  # the one that began first, as threads do
    assert args.disable_comfy_compiler is True
    second.__exit__(None, None, None)
    assert args.disable_comfy_compiler is False
    monkeypatch.setattr(args, "disable_comfy_compiler", True)  # the user's own --disable-comfy-compiler
    with without_allocation_graph():
        pass
    assert args.disable_comfy_compiler is True


def test_a_comfyui_without_the_switch_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(args, "disable_comfy_compiler", raising=False)
    before = dict(vars(args))
    with without_allocation_graph():
        assert vars(args) == before
    assert vars(args) == before
    assert torch.equal(sample(FIRST_BLOCK.never(tiny_flux())).latent, stock().latent)


def test_no_graph_is_open_in_a_run_that_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    seen, options = [], {"transformer_options": {}}

    def executor() -> None:
        seen.append(args.disable_comfy_compiler)

    executor.class_obj = SimpleNamespace(model_options=options)
    run = _CompiledRun(CompileConfig(), {"backend": "eager", "dynamic": None, "fullgraph": False})
    run.outer_sample(executor)
    assert seen == [True] and args.disable_comfy_compiler is False
