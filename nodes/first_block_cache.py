"""First Block Cache: the node."""

from comfy_api.latest import io

from ..acceleration.caching.first_block_cache import (
    DECISIONS,
    PREDICTORS,
    FirstBlockCacheConfig,
    apply_first_block_cache,
)
from ..acceleration.caching.presets import FIRST_BLOCK, resolve
from .cache_inputs import expert, preset

DEFAULTS = FirstBlockCacheConfig()
ALIASES = ["fbcache", "first block cache", "wavespeed", "teacache", "speed up sampling"]


class VelocityFirstBlockCache(io.ComfyNode):
    """Skips the blocks behind the first where the first tells nothing new."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityFirstBlockCache",
            display_name="First Block Cache",
            category="Velocity/acceleration",
            description="Makes sampling faster on transformer models and UNets: runs the first block of the model and "
            "skips the others where it tells nothing new. Place it behind the loader and the LoRAs.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model to make faster; the README lists the architectures."),
                preset(),
                *_numbers(),
            ],
            outputs=[io.Model.Output(tooltip="The model with First Block Cache; connect it to the sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, preset: str, **numbers: float | str) -> io.NodeOutput:
        """Return a clone of the model that skips."""
        architecture = type(model.model.diffusion_model).__name__
        config = resolve(FIRST_BLOCK, architecture, preset, FirstBlockCacheConfig(**numbers))
        return io.NodeOutput(apply_first_block_cache(model, config))


def _numbers() -> list[io.Input]:
    """The advanced inputs, in the order that saved workflows rely on."""
    texts = {
        "residual_diff_threshold": "How much the first block's contribution may differ while skipping. "
        "0 skips nothing.",
        "decision": "What the first block is compared with: change = the last full step (classic), "
        "verified = its own forecast, added up over skipped steps.",
        "predictor": "What answers a skipped step: output forecast = the extrapolated output, "
        "tail residual = what the other blocks added last time (classic).",
        "forecast_order": "How forecasts continue: 0 repeats, 1 follows the slope, 2 the bend.",
        "start_percent": "Where in the schedule skipping may begin.",
        "end_percent": "Where in the schedule skipping ends.",
        "max_consecutive_hits": "Most steps skipped in a row; -1 for no limit.",
    }
    kinds = {
        "residual_diff_threshold": (io.Float, {"min": 0.0, "max": 10.0, "step": 0.01}),
        "decision": (io.Combo, {"options": list(DECISIONS)}),
        "predictor": (io.Combo, {"options": list(PREDICTORS)}),
        "forecast_order": (io.Int, {"min": 0, "max": 2}),
        "start_percent": (io.Float, {"min": 0.0, "max": 1.0, "step": 0.01}),
        "end_percent": (io.Float, {"min": 0.0, "max": 1.0, "step": 0.01}),
        "max_consecutive_hits": (io.Int, {"min": -1, "max": 1000}),
    }
    return [
        expert(kind, name, texts[name], default=getattr(DEFAULTS, name), **limits)
        for name, (kind, limits) in kinds.items()
    ]
