"""The swap itself: what it may not touch, and what a visitor is told."""

import comfy.ldm.flux.model
import comfy.ldm.wan.model
import pytest
import torch
from velocity_nodes.acceleration.blocks.architectures import Stack
from velocity_nodes.acceleration.blocks.block_call import Place
from velocity_nodes.acceleration.blocks.block_stack import (
    BlockCall,
    UnsupportedModelError,
    architecture_of,
    map_tensors,
    stacks_of,
    visit_blocks,
)

from tests.numerics.tiny_models import BUILDERS, FLUX, FLUX_INPUTS, UNET_BUILDERS, VIDEO, WAN, TinyModel


def run(call: BlockCall):
    return call.run()


def stack_call(stack: Stack, block: torch.nn.Module, *args, **kwargs) -> BlockCall:
    """The call that a visitor sees when a model calls this block."""
    return BlockCall(block, Place(stack, 0, 0, 1), args, kwargs)


class Pair(torch.nn.Module):
    def forward(self, img, txt, vec=None):
        return txt, img


class Variadic(torch.nn.Module):
    def forward(self, *args, **kwargs):
        return args


def test_an_unknown_class_is_named_with_what_to_use_instead():
    with pytest.raises(UnsupportedModelError, match=r"torch\.nn\.modules\.linear\.Linear.*Velocity Forecast"):
        architecture_of(torch.nn.Linear(1, 1))


def test_a_class_that_must_not_be_cached_is_refused_with_the_reason_though_its_base_is_in_the_table():
    ar_model = pytest.importorskip("comfy.ldm.wan.ar_model", reason="an older ComfyUI has no causal Wan")
    with pytest.raises(UnsupportedModelError, match="CausalWanModel can't be skipped: .*keys and values"):
        architecture_of(TinyModel("comfy.ldm.wan.ar_model.CausalWanModel", WAN, VIDEO).diffusion_model)
    assert issubclass(ar_model.CausalWanModel, comfy.ldm.wan.model.WanModel)


def derived_from(model: torch.nn.Module) -> torch.nn.Module:
    """The model as an instance of a class that another pack derived from core's."""
    model.__class__ = type("Mine", (type(model),), {"__module__": "another_pack.models"})
    return model


def test_what_derives_from_a_known_class_is_not_taken_for_it():
    """Wan-Animate-2 calls other methods of its blocks than WanModel: nothing would be skipped, and nobody told."""
    message = (
        r"another_pack\.models\.Mine are not known.*derives from comfy\.ldm\.wan\.model\.WanModel.*Velocity Forecast"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        architecture_of(derived_from(BUILDERS["Wan"]().diffusion_model))
    with pytest.raises(UnsupportedModelError, match=r"derives from .*UNetModel"):
        stacks_of(derived_from(UNET_BUILDERS["SDXL"]().diffusion_model))


def test_what_derives_from_an_exception_is_refused_with_its_reason():
    pytest.importorskip("comfy.ldm.wan.ar_model", reason="an older ComfyUI has no causal Wan")
    causal = TinyModel("comfy.ldm.wan.ar_model.CausalWanModel", WAN, VIDEO).diffusion_model
    with pytest.raises(UnsupportedModelError, match=r"another_pack\.models\.Mine can't be skipped: .*keys and values"):
        architecture_of(derived_from(causal))


def test_a_model_without_the_list_that_the_table_names_says_so_and_stays_as_it_was():
    model = BUILDERS["Flux"]().diffusion_model
    double, model.single_blocks = model.double_blocks, None
    with pytest.raises(UnsupportedModelError, match="Flux has no list of blocks at 'single_blocks'.*Velocity Forecast"):
        with visit_blocks(model, run):
            pass
    assert model.double_blocks is double


def test_stacks_are_counted_without_empty_ones():
    """So that the first block is always block 0 of stack 0."""
    tiny, seen = TinyModel("comfy.ldm.flux.model.Flux", {**FLUX, "depth": 0}, FLUX_INPUTS), []

    def watch(call):
        seen.append((call.stack.attribute, call.stack_index, call.index))
        return call.run()

    stock = tiny.call(1)
    with visit_blocks(tiny.diffusion_model, watch):
        assert torch.equal(tiny.call(1), stock)
    assert seen == [("single_blocks", 0, 0), ("single_blocks", 0, 1), ("single_blocks", 0, 2)]


def test_an_exception_in_a_visitor_ends_the_forward_and_restores_the_lists():
    tiny = BUILDERS["Flux"]()
    double, single, stock = tiny.diffusion_model.double_blocks, tiny.diffusion_model.single_blocks, tiny.call(1)

    def fail_late(call):
        if (call.stack_index, call.index) == (1, 1):
            raise KeyError("enough")
        return call.run()

    with pytest.raises(KeyError, match="enough"), visit_blocks(tiny.diffusion_model, fail_late):
        tiny.call(1)
    assert tiny.diffusion_model.double_blocks is double and tiny.diffusion_model.single_blocks is single
    assert torch.equal(tiny.call(1), stock)


def test_a_block_that_another_pack_replaces_is_still_seen():
    """`patches_replace` gets the slot as its original block, and what it changes reaches the picture."""
    tiny, seen = BUILDERS["Flux"](), []

    def doubled(args, extra):
        out = extra["original_block"](args)
        return {"img": out["img"] * 2, "txt": out["txt"]}

    options = {"patches_replace": {"dit": {("double_block", 0): doubled}}}
    stock = tiny.call(1, transformer_options=options)
    assert not torch.equal(stock, tiny.call(1))

    def watch(call):
        seen.append((call.stack_index, call.index, call.count))
        return call.run()

    with visit_blocks(tiny.diffusion_model, watch):
        assert torch.equal(tiny.call(1, transformer_options=options), stock)
    assert seen == [(0, 0, 3), (0, 1, 3), (0, 2, 3), (1, 0, 3), (1, 1, 3), (1, 2, 3)]


def test_two_models_at_once_do_not_mix():
    flux, wan = BUILDERS["Flux"](), BUILDERS["Wan"]()
    expected, seen = (flux.call(1), wan.call(1)), []

    def call_wan_first(call):
        if (call.stack_index, call.index) == (0, 0):
            assert torch.equal(wan.call(1), expected[1])
        seen.append(call.stack.attribute)
        return call.run()

    def watch_wan(call):
        seen.append(call.stack.attribute)
        return call.run()

    with visit_blocks(flux.diffusion_model, call_wan_first), visit_blocks(wan.diffusion_model, watch_wan):
        assert torch.equal(flux.call(1), expected[0])
    assert seen == ["blocks"] * 4 + ["double_blocks"] * 3 + ["single_blocks"] * 3


def test_two_techniques_on_one_model_both_see_each_block():
    """The slots opened first stand behind those opened last. Mochi passes another argument between its streams."""
    tiny, seen = BUILDERS["Mochi"](), []

    def note(name):
        def visit(call):
            seen.append((name, call.index, *(tensor.shape for tensor in call.streams().values())))
            return call.run()

        return visit

    stock = tiny.call(1)
    with visit_blocks(tiny.diffusion_model, note("first")), visit_blocks(tiny.diffusion_model, note("last")):
        assert torch.equal(tiny.call(1), stock)
    assert seen[:2] == [("last", 0, (1, 32, 32), (1, 5, 16)), ("first", 0, (1, 32, 32), (1, 5, 16))]
    assert len(seen) == 6


def test_another_block_can_run_in_place_of_the_real_one():
    call = stack_call(Stack("s", ("txt", "img")), Pair(), 1, txt=2)
    assert call.run(lambda img, txt: (txt * 10, img * 10)) == (20, 10)


@pytest.mark.parametrize("positional", [True, False])
def test_streams_are_found_however_the_model_calls_the_block(positional):
    img, txt = torch.ones(1), torch.zeros(1)
    call = (
        stack_call(Stack("s", ("txt", "img")), Pair(), img, txt)
        if positional
        else stack_call(Stack("s", ("txt", "img")), Pair(), txt=txt, vec=None, img=img)
    )
    assert call.streams()["img"] is img and call.streams()["txt"] is txt
    assert call.run() == (txt, img) == call.pack(call.streams())
    assert call.unpack(call.run()) == call.streams()


def test_a_block_that_takes_anything_gets_its_streams_in_the_order_of_its_outputs():
    call = stack_call(Stack("s", ("context", "x")), Variadic(), 1, 2, c=3)
    assert call.streams() == {"context": 1, "x": 2}


def test_an_output_without_a_name_is_no_stream():
    call = stack_call(Stack("s", ("x", "")), Variadic(), 1)
    assert call.unpack((5, "cache")) == {"x": 5} and call.pack({"x": 5}) == (5, None)


def test_one_stream_may_be_a_pair():
    call = stack_call(Stack("s", ("x",)), Variadic(), (1, 2))
    assert call.unpack((3, 4)) == {"x": (3, 4)} and call.pack({"x": (3, 4)}) == (3, 4)


def test_a_block_without_the_stream_says_so():
    call = stack_call(Stack("s", ("picture",)), Pair(), 1, 2)
    with pytest.raises(UnsupportedModelError, match="Pair takes no picture.*Velocity Forecast"):
        call.streams()


def test_a_compiled_block_shows_the_inputs_of_the_real_one():
    call = stack_call(Stack("s", ("txt", "img")), torch.compile(Pair(), backend="eager"), 1, 2)
    assert call.streams() == {"img": 1, "txt": 2}


def test_a_slot_passes_for_its_block():
    tiny = BUILDERS["Flux"]()
    block = tiny.diffusion_model.double_blocks[0]
    with visit_blocks(tiny.diffusion_model, run):
        slot = tiny.diffusion_model.double_blocks[0]
        assert slot is not block and isinstance(slot, type(block)) and isinstance(slot, torch.nn.Module)
        assert slot.img_attn is block.img_attn and slot.hidden_size == block.hidden_size
        # Core's prefetch and weight casting walk these.
        assert set(block.modules()) <= set(slot.modules())
        with pytest.raises(AttributeError):
            _ = slot.no_such_thing


def test_core_finds_no_recording_of_a_block_in_its_slot():
    """Core would replay it in place of the call; in a block of its own it keeps it."""
    tiny, seen = BUILDERS["Flux"](), []
    block = tiny.diffusion_model.double_blocks[0]
    block._comfy_graph = block._v_block = {"graph": None}
    with visit_blocks(tiny.diffusion_model, run), visit_blocks(tiny.diffusion_model, run):  # a slot of a slot
        slot = tiny.diffusion_model.double_blocks[0]
        seen += [getattr(slot, name, None) for name in ("_comfy_graph", "_v_block")]
    assert seen == [None, None] and block._comfy_graph == {"graph": None}


def test_map_tensors_keeps_the_nesting_and_lets_none_win():
    tree = {"a": torch.ones(2), "b": (torch.ones(1), [torch.ones(1)]), "c": None}
    other = {"a": torch.ones(2), "b": (torch.ones(1), [torch.ones(1)]), "c": torch.ones(1)}
    total = map_tensors(torch.add, tree, other)
    assert total["a"].tolist() == [2, 2] and total["b"][1][0].item() == 2 and total["c"] is None
    assert isinstance(total["b"], tuple) and isinstance(total["b"][1], list)
