"""What a skipped call would have cost: claimed savings against a stock run, both counted in blocks' tokens.

Where conditionings begin and end within a run its calls cost differently; the seconds of each call are put in here.
"""

from collections.abc import Callable

import pytest
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT

from .sampling import NEGATIVE, PROMPT, last_record, prompt, run_sampler, tiny_flux
from .techniques import FORECAST

GREEN = "a large green square at the right on a yellow background"
BLACK = "a small black triangle at the bottom on a black background"


def override_cfg(model: ModelPatcher) -> ModelPatcher:
    """Return a clone with guidance switched off from 35 % on, as core's CFGOverride does it (ComfyUI 0.30)."""
    border = model.get_model_object("model_sampling").percent_to_sigma(0.35)

    def predict_noise(executor: Callable, x, timestep, *args):
        guider, scale = executor.class_obj, executor.class_obj.cfg
        guider.cfg = 1.0 if timestep.flatten()[0] <= border else scale
        try:
            return executor(x, timestep, *args)
        finally:
            guider.cfg = scale

    model = model.clone()
    model.add_wrapper(WrappersMP.PREDICT_NOISE, predict_noise)
    return model


def skip_layer(model: ModelPatcher) -> ModelPatcher:
    """Return a clone with a second evaluation in each step until half of the schedule."""
    return SkipLayerGuidanceDiT.execute(model, 1.0, 0.0, 0.5, "1", "3").result[0]


def regions() -> list:
    """Return the prompt and three more for parts of the picture until half of the schedule."""
    areas = ((8, 16, 0, 0), (8, 8, 8, 0), (8, 8, 8, 8))
    return prompt(PROMPT) + [
        [prompt(text)[0][0], {**prompt(text)[0][1], "area": area, "strength": 1.0, "end_percent": 0.5}]
        for text, area in zip((GREEN, BLACK, NEGATIVE), areas, strict=True)
    ]


def costs(model: ModelPatcher, **settings) -> list[int]:
    """Return for each call of the denoiser how many tokens passed through the first of the single blocks."""
    calls: list[int] = []
    watched = model.clone()

    def begin(executor: Callable, *args):
        calls.append(0)
        return executor(*args)

    def count(_block, _args, output) -> None:
        calls[-1] += output.shape[0] * output.shape[1]

    watched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "begin", begin)
    hook = model.model.diffusion_model.single_blocks[0].register_forward_hook(count)
    try:
        run_sampler(watched, steps=24, **settings)
    finally:
        hook.remove()
    return calls


def unchanged(model: ModelPatcher) -> ModelPatcher:
    """Return the model."""
    return model


@pytest.mark.parametrize(
    ("patch", "settings", "share"),
    [
        (override_cfg, {"cfg": 2.0}, 0.02),
        (skip_layer, {"cfg": 2.0}, 0.02),
        (unchanged, {"positive": regions()}, 0.1),  # text tokens come on top of a region's own
    ],
    ids=["guidance ends", "skip layer guidance ends", "regions end"],
)
def test_the_claim_is_what_was_saved(patch: Callable, settings: dict, share: float) -> None:
    model = FORECAST.apply(patch(tiny_flux()))
    stock, spent = costs(patch(tiny_flux()), **settings), costs(model, **settings)
    record = last_record(model)
    for step, cost in zip(record.steps, spent, strict=True):
        step.seconds = float(cost)
    assert len(set(stock)) > 1, "all calls cost the same: this proves nothing"
    assert record.skipped
    assert record.seconds_saved == pytest.approx(sum(stock) - sum(spent), rel=share)
