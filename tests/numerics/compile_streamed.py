"""Run by test_compile.py: weights that core streams are brought before a compiled block runs. The aimdo of these tests
lives in the computer's memory; all else is core's own."""

from collections.abc import Callable, Iterator

import comfy.ops
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import nn
from velocity_nodes.acceleration.compiling.static_model import without_dynamic_vram
from velocity_nodes.acceleration.compiling.streamed_weights import MARKS, StreamedBlock, can_stream_dynamic

from .compiling import CLOSE, compare, compiled, error, forget, graphs
from .sampling import run_sampler, tiny_flux

CPU = torch.device("cpu")


class Aimdo:
    """Stands in for comfy_aimdo on a card: memory for the layers that `holds` says, pinned between fault and unpin."""

    def __init__(self) -> None:
        self.memory: dict[int, torch.Tensor] = {}
        self.pinned: list[int] = []
        self.brought = 0
        self.full = False

    def fault(self, place: tuple) -> bytes | None:
        if self.full:
            return None
        self.pinned.append(place[1])
        return b"1"

    def unpin(self, place: tuple) -> None:
        self.pinned.remove(place[1])

    def tensor(self, place: tuple, _: torch.device) -> torch.Tensor:
        self.brought += 1
        return self.memory.setdefault(place[1], torch.zeros(place[2], dtype=torch.uint8))


class Patch:
    """A LoRA as dynamic VRAM applies it: what core's LowVramPatch is to its caller."""

    is_lowvram_patch = True

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def memory_required(self) -> int:
        return 4  # of what it adds; ComfyUI before 0.30 fails where that is nothing

    def prepare(self, *_: object, **__: object) -> None: ...

    def clear_prepared(self) -> None: ...

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.factor


@pytest.fixture
def model() -> ModelPatcher:
    """A model object of its own."""
    return tiny_flux.__wrapped__()


@pytest.fixture
def aimdo(monkeypatch: pytest.MonkeyPatch) -> Aimdo:
    if not can_stream_dynamic():
        pytest.skip("this ComfyUI brings no whole block, so the model is loaded without dynamic VRAM")
    fake = Aimdo()
    monkeypatch.setattr("comfy_aimdo.model_vbar.vbar_fault", fake.fault)
    monkeypatch.setattr("comfy_aimdo.model_vbar.vbar_unpin", fake.unpin)
    monkeypatch.setattr("comfy_aimdo.torch.aimdo_to_tensor", fake.tensor)
    monkeypatch.setattr("comfy.pinned_memory.get_pin", lambda *_, **__: None)
    monkeypatch.setattr("comfy.pinned_memory.pin_memory", lambda *_, **__: None)
    return fake


def linears(model: ModelPatcher, *blocks: str) -> Iterator[nn.Module]:
    for block in blocks:
        for module in model.model.diffusion_model.get_submodule(block).modules():
            if isinstance(module, nn.Linear):
                yield module


def stream_dynamic(model: ModelPatcher, factor: float = 1.0) -> None:
    """Mark all layers of all blocks as ModelPatcherDynamic.load does."""
    for number, module in enumerate(linears(model, "double_blocks", "single_blocks")):
        size = comfy.memory_management.vram_aligned_size([module.weight, module.bias])
        module._v, module._v_signature = (None, number, size), None
        module.seed_key, module.comfy_cast_weights = str(number), True
        module.weight_function, module.bias_function = [], []
        module.weight_lowvram_function = Patch(factor) if factor != 1.0 else None
        module.bias_lowvram_function = None


def stream_classic(model: ModelPatcher, function: Callable, *blocks: str) -> None:
    """Mark the layers of some blocks as ModelPatcher.load does with those that do not fit, each time it loads."""

    def mark(*_: object) -> None:
        for module in linears(model, *blocks):
            module.prev_comfy_cast_weights, module.comfy_cast_weights = type(module).comfy_cast_weights, True
            module.weight_function, module.bias_function = [function], []

    model.add_callback(CallbacksMP.ON_LOAD, mark)


class TestClassic:
    def test_blocks_that_stay_and_blocks_that_are_streamed_share_a_graph(self, model: ModelPatcher) -> None:
        strength = [1.02]
        forget()
        for module in linears(model, "double_blocks.2", "single_blocks.5"):
            module.comfy_cast_weights = type(module).comfy_cast_weights  # as core leaves a layer that now fits again
        stream_classic(model, lambda weight: weight * strength[0], "double_blocks.1", "single_blocks.2")
        expected = run_sampler(model, steps=2)
        assert error(expected, run_sampler(tiny_flux(), steps=2)) > CLOSE  # the function is heard
        patched = compiled(model)
        assert error(run_sampler(patched, steps=2), expected) < CLOSE
        assert graphs() == 2
        strength[0] = 0.9
        assert compare(patched, model) == pytest.approx((0, 0), abs=CLOSE)

    def test_the_marks_are_back_afterwards(self, model: ModelPatcher) -> None:
        stream_classic(model, lambda weight: weight.mul_(1.01), "single_blocks.0")
        run_sampler(model, steps=1)
        module = next(linears(model, "single_blocks.0"))
        weight, before = module.weight, weight_bits(module)
        run_sampler(compiled(model), steps=1)
        assert module.weight is weight
        assert torch.equal(weight_bits(module), before)  # a patch that writes has written into a copy
        assert module.comfy_cast_weights and len(module.weight_function) == 1

    def test_a_layer_of_another_pack_is_left_to_itself(
        self, model: ModelPatcher, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Foreign(comfy.ops.manual_cast.Linear): ...

        for module in linears(model, "single_blocks.0"):
            module.__class__ = Foreign
        stream_classic(model, lambda weight: weight * 1.02, "single_blocks.0")
        assert compare(compiled(model), model)[0] < CLOSE
        (line,) = [record for record in caplog.records if "run uncompiled" in record.getMessage()]
        assert "Foreign" in line.getMessage()

    def test_no_room_for_a_whole_block(
        self, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("no memory")

        stream_classic(model, lambda weight: weight * 1.02, "single_blocks")
        expected = run_sampler(model, steps=2)
        monkeypatch.setattr(StreamedBlock, "_apply", full)
        assert error(run_sampler(compiled(model), steps=2), expected) < CLOSE
        assert "there is no room for a whole block" in caplog.text


class TestDynamic:
    def test_two_graphs_and_nothing_stays_pinned(self, model: ModelPatcher, aimdo: Aimdo) -> None:
        forget()
        patched = compiled(model)
        run_sampler(tiny_flux(), steps=1)
        stream_dynamic(model)
        assert compare(patched, tiny_flux())[0] < CLOSE
        assert graphs() == 2
        layers = len(list(linears(model, "double_blocks", "single_blocks")))
        assert aimdo.brought == layers, "what is on the card is not brought again"
        assert not aimdo.pinned
        module = next(linears(model, "double_blocks.0"))
        assert module._v[1] == 0 and not hasattr(module, "_prefetch")

    def test_a_weight_that_stays_is_the_same_parameter(self, model: ModelPatcher, aimdo: Aimdo) -> None:
        stream_dynamic(model)
        streamed, seen = StreamedBlock.of(model.model.diffusion_model.double_blocks[0], CPU, torch.float32), []
        for aimdo.full in (False, False, True):
            with streamed.present():
                seen.append([module.weight for module in linears(model, "double_blocks.0")])
        assert all(first is second for first, second in zip(seen[0], seen[1], strict=True))
        assert not any(first is third for first, third in zip(seen[0], seen[2], strict=True))  # brought anew

    def test_a_lora_and_no_room(self, model: ModelPatcher, aimdo: Aimdo, monkeypatch: pytest.MonkeyPatch) -> None:
        def buffer(*_: object) -> object:
            return type("Buffer", (), {"get": lambda _, size, __: (None, 0, size), "size": lambda _: 0})()

        monkeypatch.setattr("comfy.model_management.get_aimdo_cast_buffer", buffer)
        monkeypatch.setattr(
            "comfy_aimdo.torch.aimdo_to_tensor", lambda place, _: torch.zeros(place[2], dtype=torch.uint8)
        )
        patched = compiled(model)
        run_sampler(patched, steps=1)
        stream_dynamic(model, factor=1.02)
        before = graphs()
        result = run_sampler(patched, steps=2)
        aimdo.full = True
        again = run_sampler(patched, steps=2)
        assert graphs() == before
        assert error(again, result) < CLOSE
        assert error(result, run_sampler(tiny_flux(), steps=2)) > CLOSE

    def test_an_error_in_the_block_lets_the_weights_go(self, model: ModelPatcher, aimdo: Aimdo) -> None:
        run_sampler(compiled(model), steps=1)
        stream_dynamic(model)
        block = model.model.diffusion_model.single_blocks[0]
        with pytest.raises(RuntimeError, match="in the block"), StreamedBlock.of(block, CPU, torch.float32).present():
            assert aimdo.pinned
            assert not [module for module in linears(model, "single_blocks.0") if "_v" in vars(module)]
            raise RuntimeError("in the block")
        assert not aimdo.pinned
        assert all(name in vars(next(linears(model, "single_blocks.0"))) for name in MARKS)


class Dynamic(ModelPatcher):
    """Says that it has dynamic VRAM, as core's own does on a card."""

    def is_dynamic(self) -> bool:
        return True


def test_the_model_without_dynamic_vram_is_loaded_once() -> None:
    loads = []

    def load(disable_dynamic: bool = False) -> ModelPatcher:
        loads.append(disable_dynamic)
        return tiny_flux.__wrapped__()

    base = tiny_flux.__wrapped__()
    dynamic = Dynamic(base.model, CPU, CPU)
    with pytest.raises(ValueError, match="its loader does not say how; use Load Diffusion Model"):
        without_dynamic_vram(dynamic)
    dynamic.cached_patcher_init = (load, ())
    first = without_dynamic_vram(dynamic)
    for strength in (0.5, 0.7):
        changed = dynamic.clone()
        changed.add_patches({}, strength)
        assert without_dynamic_vram(changed).model is first.model
    assert loads == [True]
    assert not first.is_dynamic()


def weight_bits(module: nn.Module) -> torch.Tensor:
    return module.weight.detach().clone()
