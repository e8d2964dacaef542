"""Velocity Forecast: the node."""

from comfy_api.latest import io

from ..acceleration.presets import FORECAST, NAMES, resolve
from ..acceleration.velocity_forecast import ForecastConfig, apply_velocity_forecast

DEFAULTS = ForecastConfig()


class VelocityForecast(io.ComfyNode):
    """Skips the sampling steps that the steps before already tell."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        expert = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="VelocityForecast",
            display_name="Velocity Forecast",
            category="Velocity/acceleration",
            description="Makes sampling faster on every model: forecasts the model's output over sigma and skips a "
            "step while the estimated error stays below the tolerance. Place it behind the loader and the LoRAs.",
            search_aliases=["step cache", "easycache", "teacache", "speed up sampling"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make faster. Any model that ComfyUI samples."),
                io.Combo.Input(
                    "preset",
                    options=list(NAMES),
                    default="balanced",
                    tooltip="faithful keeps the picture closest, draft is fastest; custom uses the numbers below.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=DEFAULTS.tolerance,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="How far the latent may drift between two full steps, in percent. 0 skips nothing. "
                    "For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "order",
                    default=DEFAULTS.order,
                    min=0,
                    max=2,
                    tooltip="How the output is continued: 0 repeats it, 1 follows its slope, 2 its bend. "
                    "For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "warmup_steps",
                    default=DEFAULTS.warmup_steps,
                    min=0,
                    max=1000,
                    tooltip="Steps at the begin that are never skipped. For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "final_steps",
                    default=DEFAULTS.final_steps,
                    min=0,
                    max=1000,
                    tooltip="Steps at the end that are never skipped. For preset custom.",
                    **expert,
                ),
                io.Int.Input(
                    "max_consecutive_skips",
                    default=DEFAULTS.max_consecutive_skips,
                    min=-1,
                    max=1000,
                    tooltip="Most steps skipped in a row; -1 for no limit. For preset custom.",
                    **expert,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with Velocity Forecast; connect it to the sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, preset: str, **numbers: float) -> io.NodeOutput:
        """Return a clone of the model that forecasts."""
        config = resolve(FORECAST, type(model.model.diffusion_model).__name__, preset, ForecastConfig(**numbers))
        return io.NodeOutput(apply_velocity_forecast(model, config))
