"""First Block Cache beside patches that carry something from step to step in each block."""

import pytest
import torch

from .sampling import full_passes, sample, tiny_flux
from .techniques import FIRST_BLOCK, FORECAST


class Statistics:
    """As core's Model Sparse Attention on MiniMax H3: each block uses what it saw in the step before."""

    def __init__(self) -> None:
        self.before: dict[int, float] = {}

    def patch(self, block: int):
        def block_patch(args: dict, extra: dict) -> dict:
            output = extra["original_block"](args)
            self.before[block] = output["img"].abs().mean().item()
            return output

        return block_patch


def with_blocks_patched(**attributes):
    """A model with a function of `Statistics` in place of each block, named as `attributes` say."""
    model, statistics = tiny_flux().clone(), Statistics()
    for block in range(len(model.model.diffusion_model.double_blocks)):
        patch = statistics.patch(block)
        for name, value in attributes.items():
            setattr(patch, name, value)
        model.set_model_patch_replace(patch, "dit", "double_block", block)
    return model


@pytest.mark.parametrize(
    "attributes, name",
    [
        ({"__module__": "/srv/ComfyUI-0.38.0/comfy_extras/nodes_sparse_attention"}, "Model Sparse Attention"),
        ({"__module__": r"C:\ComfyUI\comfy_extras\nodes_sparse_attention"}, "Model Sparse Attention"),
        ({"__module__": "pack.sparse", "keeps_state_between_steps": True}, "pack.sparse"),
    ],
)
def test_blocks_that_carry_state_are_refused_before_anything_is_computed(attributes: dict, name: str) -> None:
    model = with_blocks_patched(**attributes)
    with full_passes(model) as seen, pytest.raises(ValueError, match=f"^{name} hands.*remove or bypass one"):
        sample(FIRST_BLOCK.apply(model), steps=4)
    assert not seen
    for technique in (FIRST_BLOCK.never, FORECAST.apply):  # these leave no block out of a step that runs
        assert sample(technique(model), steps=4).passes


def test_an_attention_override_may_say_that_it_carries_state() -> None:
    def override(function, *args, **kwargs) -> torch.Tensor:
        return function(*args, **kwargs)

    model = tiny_flux().clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    override.__module__ = "/srv/ComfyUI/comfy_extras/nodes_sparse_attention"  # for other models it keeps nothing
    assert len(sample(FIRST_BLOCK.apply(model)).passes) < 20
    override.keeps_state_between_steps = True
    with pytest.raises(ValueError, match="hands each block"):
        sample(FIRST_BLOCK.apply(model), steps=4)
    assert len(sample(FIRST_BLOCK.apply(with_blocks_patched())).passes) < 20  # an ordinary patch
