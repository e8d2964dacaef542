"""The Speed Report node: what the run behind it did, as a picture and as text."""

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui

from ..acceleration.report.speed_chart import draw_speed_chart, measure
from ..acceleration.report.speed_text import speed_text
from ..acceleration.report.telemetry import ATTACHMENT, RunLog


class VelocitySpeedReport(io.ComfyNode):
    """Reads the run log that travels with the MODEL and draws its newest runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="VelocitySpeedReport",
            display_name="Speed Report",
            category="Velocity/acceleration",
            description="Shows what a Velocity node bought: the time of every model call, what was skipped, "
            "why, and how near the picture is to a reference.",
            search_aliases=["benchmark", "timing", "psnr", "ssim", "compare speed", "cache report"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that the sampler used, from behind the Velocity node."),
                io.AnyType.Input(
                    "after",
                    tooltip="Any output of the sampler or of a node behind it, so that the report is drawn when the "
                    "run is over. Its value is not used.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The picture without acceleration, same seed and settings. With 'result' connected too, "
                    "the report measures how near they are.",
                ),
                io.Image.Input(
                    "result", optional=True, tooltip="The picture of this run, to compare with 'reference'."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="The report as a picture, 1024 pixels wide."),
                io.String.Output(display_name="text", tooltip="The report as plain text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Never equal to itself: the run log changes without any input of this node changing."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        after: object,
        reference: torch.Tensor | None = None,
        result: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Draw the runs of the newest queued prompt. Raises `ValueError` for a model that no Velocity node is in."""
        log: RunLog | None = model.get_attachment(ATTACHMENT)
        if log is None:
            raise ValueError(
                "this model did not come through a Velocity node, so there is nothing to report. Insert Velocity "
                "Forecast or First Block Cache between the model loader and the sampler, and connect 'model' of the "
                "Speed Report to its output"
            )
        runs, quality = log.latest(), measure(reference, result)
        chart = draw_speed_chart(runs, quality, reference, result)
        return io.NodeOutput(chart, speed_text(runs, quality), ui=ui.PreviewImage(chart, cls=cls))
