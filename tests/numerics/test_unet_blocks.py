"""The first block of a UNet, measured through core's patches."""

import pytest
import torch
from velocity_nodes.acceleration.blocks.unet_blocks import is_unet, watch_first_block

from .tiny_models import UNET_BUILDERS


class Stopped(Exception):
    """Raised by a callback that has seen enough."""


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
