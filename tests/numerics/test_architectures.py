"""Each row of the architecture table, on a tiny model of ComfyUI's own class: exact when only watched, and right when
the first block is measured or the blocks behind it are replaced by their residual.
"""

import ast
import functools
import importlib
import inspect

import comfy.model_base
import comfyui_version
import pytest
import torch
from velocity_nodes.acceleration.architectures import ARCHITECTURES, EXCEPTIONS, UNETS
from velocity_nodes.acceleration.block_stack import architecture_of, map_tensors, visit_blocks
from velocity_nodes.acceleration.unet_blocks import is_unet, watch_first_block

from dev.compatibility import compatibility_table

from .tiny_models import BUILDERS, UNET_BUILDERS, NotInThisComfyUI, TinyModel, load_class

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
    tiny.call(2)  # some models set attributes in their first call
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


def test_the_readme_table_names_every_row_and_every_exception():
    table = compatibility_table()
    assert all(f"\n| {row.name} |" in table for row in ARCHITECTURES)
    assert all(f"- `{path.rpartition('.')[2]}`: " in table for path in EXCEPTIONS)


def test_every_row_has_a_tiny_model():
    assert {name.split(":")[0] for name in BUILDERS} == set(BY_NAME)
    assert len(BY_NAME) == len(ARCHITECTURES) == len({row.model_class for row in ARCHITECTURES})


def core_model_classes() -> set[type]:
    """The classes that `comfy.model_base` can build as `unet_model`, read from its source."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(comfy.model_base))):
        values = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "unet_model"]
        elif isinstance(node, ast.FunctionDef):
            defaults = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
            values = [default for argument, default in defaults if argument.arg == "unet_model"]
        for value in values:
            path = ast.unparse(value)
            if path != "unet_model":  # handed on by a subclass
                found.add(functools.reduce(getattr, path.split("."), comfy.model_base))
    return found


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def test_every_model_of_core_is_in_the_table_or_has_a_reason_not_to_be():
    classes = core_model_classes()
    assert len(classes) >= 30
    covered = {row.model_class for row in ARCHITECTURES} | set(EXCEPTIONS) | set(UNETS)
    missing = [class_path(cls) for cls in classes if not covered & {class_path(base) for base in cls.__mro__}]
    assert not missing


def test_no_exception_is_also_in_the_table_and_each_has_a_reason():
    assert not {row.model_class for row in ARCHITECTURES} & set(EXCEPTIONS)
    assert all(len(reason) > 10 for reason in EXCEPTIONS.values())


@pytest.mark.skipif(not REFERENCE, reason="an older ComfyUI lacks some models")
def test_every_name_in_the_table_exists():
    for path in [*(row.model_class for row in ARCHITECTURES), *EXCEPTIONS, *UNETS]:
        assert inspect.isclass(load_class(path)), path
    assert importlib.import_module("comfy.model_base")


@pytest.mark.parametrize("name", UNET_BUILDERS)
def test_the_first_block_of_a_unet_can_be_measured_beside_the_patches_of_others(name):
    tiny, order, residuals = UNET_BUILDERS[name](), [], []
    assert is_unet(tiny.diffusion_model)

    def other(h, options):
        order.append(options["block"])
        return h * 1.5

    options = {"patches": {"input_block_patch": [other], "input_block_patch_after_skip": [other], "attn1_patch": []}}
    stock = tiny.call(1, transformer_options=options)
    watched = watch_first_block(options, residuals.append)
    assert torch.equal(tiny.call(1, transformer_options=watched), stock)
    assert options["patches"] == {
        "input_block_patch": [other],
        "input_block_patch_after_skip": [other],
        "attn1_patch": [],
    }
    assert torch.isfinite(residuals[0]).all() and residuals[0].abs().max() > 1e-4 and len(residuals) == 1

    # The same, by hooks on the two blocks: what enters block 1 (patched twice behind block 0) and what leaves it.
    seen, blocks = [], tiny.diffusion_model.input_blocks
    handles = [blocks[0][0].register_forward_hook(lambda _m, _i, output: seen.append(output * 1.5 * 1.5))]
    handles.append(blocks[1][-1].register_forward_hook(lambda _m, _i, output: seen.append(output)))
    tiny.call(1, transformer_options=options)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(residuals[0], seen[1] - seen[0])


def test_a_first_block_that_adds_in_place_is_not_measured_as_nothing():
    class AddOne(torch.nn.Module):
        def forward(self, h):
            h += 1
            return h

    tiny, residuals = UNET_BUILDERS["SDXL"](), []
    tiny.diffusion_model.input_blocks[1] = torch.nn.Sequential(AddOne())
    tiny.call(1, transformer_options=watch_first_block({}, residuals.append))
    torch.testing.assert_close(residuals[0], torch.ones_like(residuals[0]), rtol=0, atol=1e-5)


def test_the_forward_of_a_unet_can_be_stopped_behind_its_first_block():
    tiny, seen = UNET_BUILDERS["SDXL"](), []
    tiny.diffusion_model.input_blocks[2][0].register_forward_pre_hook(lambda *_: seen.append("block 2"))

    def stop(residual):
        raise Stopped

    with pytest.raises(Stopped):
        tiny.call(1, transformer_options=watch_first_block({}, stop))
    assert not seen
    tiny.call(1)
    assert seen == ["block 2"]
