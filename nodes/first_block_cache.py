"""First Block Cache: the node."""

from comfy_api.latest import io

from ..acceleration.first_block_cache import (
    DECISIONS,
    PREDICTORS,
    FirstBlockCacheConfig,
    apply_first_block_cache,
)
from ..acceleration.presets import FIRST_BLOCK, NAMES, resolve

DEFAULTS = FirstBlockCacheConfig()


class VelocityFirstBlockCache(io.ComfyNode):
    """Skips the blocks behind the first where the first tells nothing new."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        expert = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="VelocityFirstBlockCache",
            display_name="First Block Cache",
            category="Velocity/acceleration",
            description="Makes sampling faster on transformer models and UNets: runs the first block of the model and "
            "skips the others where it tells nothing new. Place it behind the loader and the LoRAs.",
            search_aliases=["fbcache", "first block cache", "wavespeed", "teacache", "speed up sampling"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make faster; the README lists the architectures."),
                io.Combo.Input(
                    "preset",
                    options=list(NAMES),
                    default="balanced",
                    tooltip="faithful keeps the picture closest, draft is fastest; custom uses the numbers below.",
                ),
                io.Float.Input(
                    "residual_diff_threshold",
                    default=DEFAULTS.residual_diff_threshold,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much the first block's contribution may differ while skipping. 0 skips nothing. "
                    "For preset custom.",
                    **expert,
                ),
                io.Combo.Input(
                    "decision",
                    options=list(DECISIONS),
                    default=DEFAULTS.decision,
                    tooltip="What the first block is compared with: change = the last full step (classic), "
                    "verified = its own forecast, added up over skipped steps. For preset custom.",
                    **expert,
                ),
                io.Combo.Input(
                    "predictor",
                    options=list(PREDICTORS),
                    default=DEFAULTS.predictor,
                    tooltip="What answers a skipped step: output forecast = the extrapolated output, "
                    "tail residual = what the other blocks added last time (classic). For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "forecast_order",
                    default=DEFAULTS.forecast_order,
                    min=0,
                    max=2,
                    tooltip="How forecasts continue: 0 repeats, 1 follows the slope, 2 the bend. For preset custom.",
                    **expert,
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULTS.start_percent,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the schedule skipping may begin. For preset custom.",
                    **expert,
                ),
                io.Float.Input(
                    "end_percent",
                    default=DEFAULTS.end_percent,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the schedule skipping ends. For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "max_consecutive_hits",
                    default=DEFAULTS.max_consecutive_hits,
                    min=-1,
                    max=1000,
                    tooltip="Most steps skipped in a row; -1 for no limit. For preset custom.",
                    **expert,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with First Block Cache; connect it to the sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, preset: str, **numbers: float | str) -> io.NodeOutput:
        """Return a clone of the model that skips."""
        config = resolve(
            FIRST_BLOCK, type(model.model.diffusion_model).__name__, preset, FirstBlockCacheConfig(**numbers)
        )
        return io.NodeOutput(apply_first_block_cache(model, config))
