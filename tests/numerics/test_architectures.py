"""Each row of the architecture table, on a tiny model of ComfyUI's own class: exact when only watched, and right when
the first block is measured or the blocks behind it are replaced by their residual.
"""

import comfyui_version
import pytest
import torch
from comfy.model_base import BaseModel, ModelType
from comfy.patcher_extension import WrappersMP
from comfy.supported_models_base import BASE
from comfy.utils import pack_latents
from velocity_nodes.acceleration.blocks.architectures import ARCHITECTURES
from velocity_nodes.acceleration.blocks.block_stack import architecture_of, map_tensors, visit_blocks

from .tiny_models import BUILDERS, NotInThisComfyUI, TinyModel

REFERENCE = tuple(int(part) for part in comfyui_version.__version__.split(".")) >= (0, 30, 0)
BY_NAME = {row.name: row for row in ARCHITECTURES}
TAIL = [name for name in BUILDERS if BY_NAME[name.split(":")[0]].tail_residual]

ONE_SAMPLE = {
    "MiniMax H3": "raises for a batch",
    "Hunyuan3D 2.1": "takes pairs of conditions only",
    "ACE-Step 1.5": "core gives the reference audio of all samples to the first one",
}


@pytest.fixture
def tiny(request) -> TinyModel:
    """The model that the test's `name` parameter asks for; only an older ComfyUI may lack one."""
    name = request.node.callspec.params["name"]
    try:
        return BUILDERS[name]()
    except NotInThisComfyUI as error:
        if REFERENCE:
            raise
        pytest.skip(str(error))


class Stopped(Exception):
    """Raised by a visitor that has seen enough."""


class Probe:
    """Measures the first block and stops."""

    def __init__(self):
        self.before = self.residual = None

    def __call__(self, call):
        assert (call.stack_index, call.index) == (0, 0)
        name = call.stack.measured
        self.before = map_tensors(torch.clone, call.streams()[name])
        self.residual = map_tensors(torch.sub, call.unpack(call.run())[name], self.before)
        raise Stopped


class TailResidual:
    """Stores what the blocks behind the first one add, and on a hit adds that instead of running them."""

    def __init__(self, add: bool = True):
        self.hit, self.add, self.ran = False, add, 0
        self.entry, self.residuals = None, {}

    def __call__(self, call):
        first, last = (call.stack_index, call.index) == (0, 0), call.index == call.count - 1
        if call.index == 0 and not first:
            self.entry = map_tensors(torch.clone, call.streams())
        if self.hit and not first:
            if last and self.add:
                return call.pack(map_tensors(torch.add, self.entry, self.residuals[call.stack_index]))
            return call.pack(call.streams())
        self.ran += 1
        output = call.run()
        if first:
            self.entry = map_tensors(torch.clone, call.unpack(output))
        if last and not self.hit:
            self.residuals[call.stack_index] = map_tensors(torch.sub, call.unpack(output), self.entry)
        return output


def flat(output) -> torch.Tensor:
    """All values of a tensor, or of the several tensors that a model of picture and sound returns."""
    return torch.cat([part.flatten() for part in (output if isinstance(output, tuple | list) else [output])])


def fingerprint(model: torch.nn.Module) -> list:
    """What must be the same before and after: every module object, its attributes, and the names of its state."""
    modules = [(name, id(module), sorted(vars(module))) for name, module in model.named_modules()]
    return [modules, list(model.state_dict())]


def visited(tiny: TinyModel, visitor, *seeds: int, **options):
    with visit_blocks(tiny.diffusion_model, visitor):
        return tiny.call(*seeds, **options)


@pytest.mark.parametrize("name", BUILDERS)
def test_watching_changes_nothing(name, tiny):
    tiny.call(1)  # some models set attributes in their first call, HiDream-O1 keeps the prompt's keys and values
    before, seen = fingerprint(tiny.diffusion_model), []

    def watch(call):
        seen.append((call.stack_index, call.index))
        return call.run()

    watched = flat(visited(tiny, watch, 1))
    assert fingerprint(tiny.diffusion_model) == before
    assert torch.equal(watched, flat(tiny.call(1)))
    assert torch.isfinite(watched).all() and watched.std() > 1e-3
    assert architecture_of(tiny.diffusion_model) is BY_NAME[name.split(":")[0]]
    assert len(set(seen)) == len(seen) >= 3 and seen == sorted(seen)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_first_block_can_be_measured_and_the_rest_left_out(name, tiny):
    tiny.call(1)  # HiDream-O1 keeps the prompt's keys and values from its first call
    stock, probe = tiny.call(1), Probe()
    before = fingerprint(tiny.diffusion_model)
    with pytest.raises(Stopped):
        visited(tiny, probe, 1)
    assert torch.isfinite(flat(probe.residual)).all() and flat(probe.residual).abs().max() > 1e-4
    assert fingerprint(tiny.diffusion_model) == before
    assert torch.equal(flat(tiny.call(1)), flat(stock))


@pytest.mark.parametrize("name", BUILDERS)
def test_the_measured_stream_is_the_one_that_the_latent_enters(name, tiny):
    """The text that enters the first block is the same in each step, so a probe of it would see nothing."""
    entered = []
    for latent_seed in (1, 2):
        probe = Probe()
        with pytest.raises(Stopped):
            visited(tiny, probe, 1, latent_seed=latent_seed)
        entered.append(flat(probe.before))
    assert (entered[0] - entered[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ONE_SAMPLE])
def test_the_samples_of_a_batch_can_be_told_apart(name, tiny):
    """What the first block adds to a batch is what it adds to each sample, side by side in `batch_dim`."""
    measured = []
    for seeds in [(1,), (2,), (1, 2)]:
        probe = Probe()
        with pytest.raises(Stopped):
            visited(tiny, probe, *seeds)
        measured.append(probe.residual)
    batch_dim = BY_NAME[name.split(":")[0]].stacks[0].batch_dim
    for sample in (0, 1):
        own = map_tensors(lambda residual, i=sample: residual.chunk(2, batch_dim)[i], measured[2])
        torch.testing.assert_close(flat(own), flat(measured[sample]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TAIL)
def test_the_tail_can_be_replaced_by_its_residual(name, tiny):
    stock, tail = tiny.call(1), TailResidual()
    before = fingerprint(tiny.diffusion_model)
    assert torch.equal(flat(visited(tiny, tail, 1)), flat(stock))
    assert len(tail.residuals) == 1 + max(tail.residuals)

    tail.hit, tail.ran = True, 0
    torch.testing.assert_close(flat(visited(tiny, tail, 1)), flat(stock), rtol=1e-3, atol=1e-3 * flat(stock).std())
    assert tail.ran == 1

    other = flat(visited(tiny, tail, 2))
    assert other.shape == flat(stock).shape and torch.isfinite(other).all()
    assert not torch.equal(other, flat(stock))

    tail.add = False  # without the residual the picture differs: the blocks behind the first one do matter here
    assert (flat(visited(tiny, tail, 1)) - flat(stock)).abs().max() > 1e-2 * flat(stock).std()
    assert fingerprint(tiny.diffusion_model) == before


@pytest.mark.parametrize("name", BUILDERS)
def test_a_wrapper_of_the_model_call_sees_the_blocks(name, tiny):
    """Through core's own `apply_model`: DIFFUSION_MODEL wrappers, which some models never call, are not needed."""
    base = BaseModel(BASE({"disable_unet_model_creation": True}), ModelType.FLOW)
    base.diffusion_model, seen = tiny.diffusion_model, []
    arguments = tiny.arguments(1)
    x, t, context = (arguments.pop(key) for key in ("x", "t", "context"))
    if isinstance(x, list):
        x, arguments["latent_shapes"] = pack_latents(x)

    def watch(call):
        seen.append(call.index)
        return call.run()

    def wrapper(executor, *args, **kwargs):
        with visit_blocks(executor.class_obj.diffusion_model, watch):
            return executor(*args, **kwargs)

    options = {"cond_or_uncond": [0], "wrappers": {WrappersMP.APPLY_MODEL: {"velocity": [wrapper]}}}
    with torch.no_grad():
        base.apply_model(x, torch.full(x.shape[:1], 0.7), c_crossattn=context, transformer_options=options, **arguments)
    assert len(seen) >= 3


@pytest.mark.parametrize("name", BUILDERS)
def test_the_measured_stream_has_the_dimensions_that_the_table_says(name, tiny):
    """(batch, tokens, channels), or more dimensions of tokens, or (tokens, channels) where the samples are packed."""
    probe = Probe()
    with pytest.raises(Stopped):
        visited(tiny, probe, 1)
    stream = probe.before if isinstance(probe.before, torch.Tensor) else probe.before[0]
    assert (stream.ndim == 2) == BY_NAME[name.split(":")[0]].stacks[0].packed
