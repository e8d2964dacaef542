"""The Speed Report node on a real ModelPatcher: it finds the log through clones, and says what is missing."""

import math

import pytest
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.report.telemetry import ATTACHMENT, RunLog, RunRecord, StepRecord
from velocity_nodes.nodes.speed_report import VelocitySpeedReport


@pytest.fixture
def model() -> ModelPatcher:
    cpu = torch.device("cpu")
    return ModelPatcher(torch.nn.Linear(2, 2), load_device=cpu, offload_device=cpu)


@pytest.fixture(autouse=True)
def previews(tmp_path):
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_temp_directory(before)


def report(model: ModelPatcher, **inputs):
    return VelocitySpeedReport.PREPARE_CLASS_CLONE(None).execute(model, None, **inputs)


def test_a_model_without_velocity_names_the_fix(model):
    with pytest.raises(ValueError, match="Insert Velocity Forecast or First Block Cache between"):
        report(model)


def test_a_model_that_has_not_run_names_the_fix(model):
    model.set_attachments(ATTACHMENT, RunLog())
    with pytest.raises(ValueError, match="Connect 'after'"):
        report(model)


def test_a_clone_reports_and_previews_the_run(model, previews):
    model.set_attachments(ATTACHMENT, RunLog())
    behind = model.clone()  # as a LoRA node makes it
    steps = [StepRecord(0, 1.0, 0.2, True), StepRecord(1, 0.5, 0.01, False)]
    behind.get_attachment(ATTACHMENT).add(
        RunRecord("Velocity Forecast", "Flux", "cpu", steps=steps, seconds=0.21, completed=True)
    )
    image = torch.rand(1, 32, 32, 3)
    output = report(model, reference=image, result=image)
    chart, text = output.result
    assert chart.shape[2:] == (1024, 3)
    assert text.startswith("2 calls: 1 full, 1 skipped. 210 ms, about 190 ms saved (1.9x)")
    assert "identical" in text
    (preview,) = output.ui.as_dict()["images"]
    assert (previews / preview["filename"]).is_file()


def test_the_schema_is_valid_and_explained():
    schema = VelocitySpeedReport.GET_SCHEMA()
    assert [item.id for item in schema.inputs] == ["model", "after", "reference", "result"]
    assert [item.optional for item in schema.inputs] == [False, False, True, True]
    assert all(item.tooltip for item in [*schema.inputs, *schema.outputs])
    assert schema.is_output_node
    assert math.isnan(VelocitySpeedReport.fingerprint_inputs())
