"""Run by test_compile.py: what can't be compiled runs as it is or says what to do, and nothing is left behind."""

import gc
import logging
import time
import weakref
from collections.abc import Callable

import comfy.cli_args
import comfy.model_management
import pytest
import torch
import velocity_nodes.acceleration.compiling.compile as compile_module
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_torch_compile import TorchCompileModel
from velocity_nodes.acceleration.blocks.block_stack import UnsupportedModelError
from velocity_nodes.acceleration.compiling.compile import STORE, CompileConfig

from .compiling import CLOSE, compare, compiled, error, graphs
from .sampling import NEGATIVE, PROMPT, empty, prompt, run_sampler, sample_guided, tiny_flux


@pytest.fixture
def model() -> ModelPatcher:
    """A model object of its own."""
    return tiny_flux.__wrapped__()


def hook_first_single_block(model: ModelPatcher, hook: Callable[[], None]) -> None:
    """Call `hook` within the compiled block, or within what is left of it."""
    block = model.model.diffusion_model.single_blocks[0]
    forward = block.forward

    def hooked(*args: object, **kwargs: object) -> torch.Tensor:
        hook()
        return forward(*args, **kwargs)

    block.forward = hooked


def bad_compiler(graph: torch.fx.GraphModule, inputs: list) -> None:
    raise NotImplementedError("no such kernel")


class TestFailures:
    def test_a_compiler_that_fails(self, model: ModelPatcher, caplog: pytest.LogCaptureFixture) -> None:
        patched = compiled(model)
        store = vars(model.model)[STORE]
        (blocks,) = store.values()
        blocks.options["backend"] = bad_compiler
        before = graphs()
        difference, _ = compare(patched, tiny_flux())
        assert difference == 0
        warnings = [record for record in caplog.records if record.name == "velocity" and record.levelno >= 30]
        assert len(warnings) == 2  # one for each kind of block
        assert all("runs uncompiled, as the compiler failed" in record.getMessage() for record in warnings)
        assert "no such kernel" in caplog.text
        caplog.clear()
        tried = graphs()
        assert compare(patched, tiny_flux())[0] == 0
        assert graphs() == tried >= before  # it does not try again
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_a_break_with_and_without_fullgraph(self, model: ModelPatcher) -> None:
        hook_first_single_block(model, torch._dynamo.graph_break)
        difference, _ = compare(compiled(model), tiny_flux())
        assert difference < CLOSE
        with pytest.raises(RuntimeError, match="SingleStreamBlock can't be compiled as one.*Switch fullgraph off"):
            run_sampler(compiled(model, fullgraph=True), steps=1)

    def test_compiled_twice(self, model: ModelPatcher) -> None:
        core = TorchCompileModel.execute(model, "inductor").result[0]
        for both in (compiled(core), TorchCompileModel.execute(compiled(model), "inductor").result[0]):
            with pytest.raises(ValueError, match="compiled twice: remove or bypass TorchCompileModel"):
                run_sampler(both, steps=1)

    def test_an_interrupt_leaves_the_models_own_blocks(self, model: ModelPatcher) -> None:
        patched, flux = compiled(model), model.model.diffusion_model
        blocks = flux.single_blocks
        run_sampler(patched, steps=1)

        def stop(step: int, *_: object) -> None:
            comfy.model_management.interrupt_current_processing()
            comfy.model_management.throw_exception_if_processing_interrupted()

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_sampler(patched, steps=5, callback=stop)
        assert flux.single_blocks is blocks
        assert compare(patched, tiny_flux()) == pytest.approx((0, 0), abs=CLOSE)

    def test_an_interrupt_in_the_middle_of_a_step(self, model: ModelPatcher) -> None:
        """Core asks in each layer; a compiled one does not, so the node asks before each block."""
        patched, flux = compiled(model), model.model.diffusion_model
        blocks, reached = flux.single_blocks, []
        run_sampler(patched, steps=1)
        handles = [
            flux.img_in.register_forward_hook(lambda *_: comfy.model_management.interrupt_current_processing()),
            flux.final_layer.register_forward_hook(lambda *_: reached.append(1)),
        ]
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_sampler(patched, steps=1)
        for handle in handles:
            handle.remove()
        assert not reached
        assert flux.single_blocks is blocks

    def test_out_of_memory_reaches_core(self, model: ModelPatcher) -> None:
        """Core answers it by freeing memory, so it must not be taken for a failure of the compiler."""

        def full(*_: object) -> None:
            raise torch.OutOfMemoryError("no memory")

        flux = model.model.diffusion_model
        blocks, patched = flux.single_blocks, compiled(model)
        run_sampler(patched, steps=1)
        flux.img_in.register_forward_pre_hook(full)
        with pytest.raises(torch.OutOfMemoryError):
            run_sampler(patched, steps=1)
        assert flux.single_blocks is blocks

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"mode": "fastest"}, "mode is 'fastest'; choose from default"),
            ({"backend": "tensorrt"}, "backend is 'tensorrt'; choose from inductor"),
            ({"dynamic": "maybe"}, "dynamic is 'maybe'; choose from auto, on, off"),
            ({"scope": "half"}, "scope is 'half'; choose from blocks"),
            ({"scope": "whole model", "keep_fastest": True}, "choose the scope 'blocks'"),
        ],
    )
    def test_wrong_settings(self, settings: dict, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            CompileConfig(**settings)


def half_as_strong() -> ModelPatcher:
    """Return a model of the same kind with other weights."""
    model = tiny_flux.__wrapped__()
    with torch.no_grad():
        for block in model.model.diffusion_model.single_blocks:
            block.linear2.weight *= 0.5
    return model


class TestSaid:
    @pytest.mark.parametrize(
        ("mode", "runs_as"), [("reduce-overhead", "default"), ("max-autotune", "max-autotune-no-cudagraphs")]
    )
    def test_cuda_graphs_are_left_out_of_blocks(
        self, model: ModelPatcher, mode: str, runs_as: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Workflows that name these modes still run."""
        compiled(model, mode=mode, backend="inductor")
        assert f"the mode {mode} runs as {runs_as}" in caplog.text
        (store,) = vars(model.model)[STORE].values()
        assert not store.options["options"].get("triton.cudagraphs")
        caplog.clear()
        compiled(model, mode=mode, backend="inductor", scope="whole model")
        assert "runs as" not in caplog.text

    def test_a_model_that_calls_none_of_its_blocks(self, model: ModelPatcher) -> None:
        model.model.diffusion_model.forward = lambda x, *_, **__: x
        for settings in ({}, {"keep_fastest": True}):
            with pytest.raises(UnsupportedModelError, match="Flux called none of its known blocks"):
                run_sampler(compiled(model, **settings), steps=1)

    def test_a_start_that_keeps_no_models(
        self, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        compiled(model)
        assert "--cache-none" not in caplog.text
        monkeypatch.setattr(comfy.cli_args.args, "cache_none", True)
        compiled(model)
        assert caplog.text.count("with --cache-none ComfyUI loads the model anew") == 1


class TestScopes:
    def test_the_whole_model(self, model: ModelPatcher) -> None:
        flux = model.model.diffusion_model
        patched = compiled(model, scope="whole model")
        difference, new = compare(patched, tiny_flux())
        assert difference < CLOSE
        assert new > 0
        assert model.model.diffusion_model is flux
        assert compare(patched, tiny_flux())[1] == 0

    @pytest.mark.parametrize("scope", ["blocks", "whole model"])
    def test_two_models_in_one_sampling(self, model: ModelPatcher, scope: str) -> None:
        """The guider calls the second with the options of the first, which have the wrappers of its node."""
        guiders = pytest.importorskip("comfy_extras.nodes_custom_sampler")
        if not hasattr(guiders, "DualModelGuider"):
            pytest.skip("this ComfyUI has no guider for two models")
        other = half_as_strong()

        def sampled(first: ModelPatcher) -> torch.Tensor:
            guider = guiders.DualModelGuider.execute(first, prompt(PROMPT), 3.0, other, prompt(NEGATIVE)).result[0]
            return sample_guided(guider, steps=2).latent

        expected = sampled(model)
        assert error(expected, run_sampler(model, steps=2, cfg=3.0)) > CLOSE, "the second model makes no difference"
        assert error(sampled(compiled(model, scope=scope)), expected) < CLOSE

    def test_dynamic_off_compiles_each_size(self, model: ModelPatcher) -> None:
        patched = compiled(model, dynamic="off")
        assert compare(patched, tiny_flux())[1] == 2
        difference, new = compare(patched, tiny_flux(), latent=empty(1, 24, 16))
        assert new == 2
        assert difference < CLOSE

    def test_dynamic_on(self, model: ModelPatcher) -> None:
        patched = compiled(model, dynamic="on")
        assert compare(patched, tiny_flux())[0] < CLOSE
        difference, new = compare(patched, tiny_flux(), latent=empty(1, 24, 16))
        assert new == 0
        assert difference < CLOSE

    def test_a_second_model_of_the_same_class_has_functions_of_its_own(self, model: ModelPatcher) -> None:
        other = tiny_flux.__wrapped__()
        assert compare(compiled(model), tiny_flux())[1] == 2
        assert compare(compiled(other), tiny_flux())[1] == 2
        for one in (model, other):
            assert compare(compiled(one), tiny_flux())[1] == 0


class TestFreed:
    def functions(self, model: ModelPatcher) -> weakref.ref:
        (store,) = vars(model.model)[STORE].values()
        functions = [function for kind in store.functions.values() for function in kind.values()]
        assert len(functions) == 2
        return weakref.ref(functions[0])

    def test_a_while_after_the_last_node(self, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compile_module, "GRACE", 4.0)
        patched = compiled(model)
        run_sampler(patched, steps=1)
        function = self.functions(model)
        del patched
        gc.collect()
        assert function() is not None  # an edited graph finds it
        again = compiled(model)
        time.sleep(5.0)
        gc.collect()
        assert function() is not None  # as a node uses it
        assert compare(again, tiny_flux(), steps=1)[1] == 0
        del again
        gone_by = time.monotonic() + 30
        while function() is not None and time.monotonic() < gone_by:
            time.sleep(0.5)
            gc.collect()
        assert function() is None
        assert not vars(model.model)[STORE]
        assert compare(compiled(model), tiny_flux(), steps=1)[1] == 2  # so it had gone

    def test_the_model_is_not_held(self) -> None:
        model = tiny_flux.__wrapped__()
        patched = compiled(model)
        run_sampler(patched, steps=1)
        loaded = weakref.ref(model.model.diffusion_model.single_blocks[0])
        del model, patched
        gc.collect()
        comfy.model_management.cleanup_models_gc()
        gc.collect()
        assert loaded() is None
