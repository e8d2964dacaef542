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

        def complaints(old: str, new: str) -> str:
            broken.write_text(text.replace(old, new), encoding="utf-8")
            frontend.load(broken)
            frontend.page.wait_for_timeout(1000)
            return "\n".join(frontend.complaints())

        assert complaints("nothing", "changed") == ""
        assert "nobody_has_this.safetensors is missing" in complaints(TINY_MODEL, "nobody_has_this.safetensors")
        assert "NobodyHasThis" in complaints("TinyFluxDecode", "NobodyHasThis")
        assert frontend.missing_node_types() == ["NobodyHasThis"]
        assert complaints(SHAPES, "a large pink cat") == ""
        assert frontend.press_run() == "execution_error"
        frontend.page.wait_for_timeout(1000)
        assert "Tiny Flux Text Encode failed" in frontend.complaints()[0]
