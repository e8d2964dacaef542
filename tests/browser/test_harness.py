"""The browser harness itself: it must see what the workflow tests rely on it to see."""

from pathlib import Path

from dev.frontend import open_frontend
from dev.server import TINY_MODEL, ComfyServer
from dev.workflow_graphs import SHAPES

from .test_workflows import workflow_file


def test_a_failed_run_a_missing_node_and_a_missing_model_are_seen(server: ComfyServer, tmp_path: Path) -> None:
    text = workflow_file("velocity_forecast_tiny").read_text(encoding="utf-8")
    broken = tmp_path / "broken.json"
    with open_frontend(server, nodes_2=True) as frontend:

        def load(old: str, new: str) -> None:
            broken.write_text(text.replace(old, new), encoding="utf-8")
            frontend.load(broken)

        load("nothing", "changed")
        assert frontend.complaints() == []
        load(TINY_MODEL, "nobody_has_this.safetensors")
        frontend.wait_for_complaint("nobody_has_this.safetensors is missing")
        load("TinyFluxDecode", "NobodyHasThis")
        frontend.wait_for_complaint("NobodyHasThis")
        assert frontend.missing_node_types() == ["NobodyHasThis"]
        load(SHAPES, "a large pink cat")
        frontend.wait_until_calm()
        assert frontend.complaints() == []
        assert frontend.press_run() == "execution_error"
        frontend.wait_for_complaint("Tiny Flux Text Encode failed")
