"""Velocity Forecast: the node."""

from comfy_api.latest import io

from ..acceleration.caching.presets import FORECAST, resolve
from ..acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast
from .cache_inputs import expert, preset

DEFAULTS = ForecastConfig()


class VelocityForecast(io.ComfyNode):
    """Skips the sampling steps that the steps before already tell."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        skips = "Most steps skipped in a row; -1 for no limit."
        return io.Schema(
            node_id="VelocityForecast",
            display_name="Velocity Forecast",
            category="Velocity/acceleration",
            description="Makes sampling faster on every model: forecasts the model's output over sigma and skips a "
            "step while the estimated error stays below the tolerance. Place it behind the loader and the LoRAs.",
            search_aliases=["step cache", "easycache", "teacache", "speed up sampling"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make faster. Any model that ComfyUI samples."),
                preset(),
                expert(
                    io.Float,
                    "tolerance",
                    "How far the latent may drift between two full steps, in percent. 0 skips nothing.",
                    default=DEFAULTS.tolerance,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                ),
                expert(
                    io.Int,
                    "order",
                    "How the output is continued: 0 repeats it, 1 follows its slope, 2 its bend.",
                    default=DEFAULTS.order,
                    min=0,
                    max=2,
                ),
                *(
                    expert(io.Int, name, tooltip, default=getattr(DEFAULTS, name), min=low, max=1000)
                    for name, tooltip, low in (
                        ("warmup_steps", "Steps at the begin that are never skipped.", 0),
                        ("final_steps", "Steps at the end that are never skipped.", 0),
                        ("max_consecutive_skips", skips, -1),
                    )
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with Velocity Forecast; connect it to the sampler.")],
        )

    @classmethod
    def execute(cls, model: io.Model.Type, preset: str, **numbers: float) -> io.NodeOutput:
        """Return a clone of the model that forecasts."""
        architecture = type(model.model.diffusion_model).__name__
        config = resolve(FORECAST, architecture, preset, ForecastConfig(**numbers))
        return io.NodeOutput(apply_velocity_forecast(model, config))
