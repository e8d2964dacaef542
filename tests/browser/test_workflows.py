"""Every workflow file in ComfyUI's own frontend, drawn on the canvas and with Nodes 2.0."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.frontend import Frontend, open_frontend
from dev.pack_copy import ROOT
from dev.server import ComfyServer
from dev.workflow_graphs import CHAINS, demo, shipped

SHIPPED = sorted(CHAINS)
DEMOS = [f"{name}_tiny" for name in SHIPPED]
PREVIEWS = (
    "window.app.graph.nodes.filter(n => n.imgs?.length || window.app.nodeOutputs[n.id]?.images?.length)"
    ".map(n => n.type).sort()"
)


# Closed at the end of this file: while Playwright runs, no other test of the session could use asyncio.run.
@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "nodes-2"])
def frontend(server: ComfyServer, request: pytest.FixtureRequest) -> Iterator[Frontend]:
    with open_frontend(server, nodes_2=request.param) as opened:
        yield opened


def workflow_file(name: str) -> Path:
    return ROOT / ("demo/workflows" if name.endswith("_tiny") else "workflows") / f"{name}.json"


def wanted_prompt(name: str) -> dict:
    return (demo(name.removesuffix("_tiny")) if name.endswith("_tiny") else shipped(name)).graph


def widget_defaults(server: ComfyServer, class_type: str) -> dict:
    sections = server.get(f"/object_info/{class_type}")[class_type]["input"].values()
    options = {key: spec[1] for section in sections for key, spec in section.items() if len(spec) > 1}
    return {key: option["default"] for key, option in options.items() if "default" in option}


def values(prompt: dict) -> dict:
    return {node: (entry["class_type"], entry["inputs"]) for node, entry in prompt.items()}


def test_every_workflow_file_is_tested_and_has_a_thumbnail() -> None:
    assert {path.stem for path in ROOT.glob("workflows/*.json")} == set(SHIPPED)
    assert {path.stem for path in ROOT.glob("demo/workflows/*.json")} == set(DEMOS)
    assert {path.stem for path in ROOT.glob("workflows/*.jpg")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED + DEMOS)
def test_workflow_opens_and_keeps_its_values(
    frontend: Frontend, server: ComfyServer, name: str, tmp_path: Path
) -> None:
    frontend.load(workflow_file(name))
    assert frontend.missing_node_types() == []
    assert frontend.complaints() == []
    opened = values(frontend.prompt())
    for node, entry in wanted_prompt(name).items():  # the file says what its source says, and nothing was shifted
        class_type, inputs = opened[node]
        assert class_type == entry["class_type"]
        named = entry["inputs"]
        assert {key: inputs[key] for key in named} == named
        if class_type.startswith("Velocity"):  # a node that got a new input since would show it here
            defaults = widget_defaults(server, class_type)
            assert {key: value for key, value in inputs.items() if key not in named} == {
                key: value for key, value in defaults.items() if key not in named
            }
    again = tmp_path / "again.json"
    again.write_text(json.dumps(frontend.serialized()), encoding="utf-8")
    frontend.load(again)
    assert values(frontend.prompt()) == opened
    assert frontend.complaints() == []


# What runs is the same in both drawings; test_offload.py watches a run in either. The one that compiles for minutes is
# run by tests/host/test_all_together.py.
@pytest.mark.parametrize("frontend", [True], ids=["nodes-2"], indirect=True)
@pytest.mark.parametrize("name", [name for name in DEMOS if name != "all_together_tiny"])
def test_demo_workflow_runs(frontend: Frontend, server: ComfyServer, name: str, tmp_path: Path) -> None:
    frontend.load(workflow_file(name))
    assert frontend.press_run() == "execution_success"
    # The picture on the screen is the node's: its preview has arrived from the server.
    shown = {node["class_type"] for node in wanted_prompt(name).values()} & {"SaveImage", "VelocitySpeedReport"}
    frontend.page.wait_for_function(f"wanted => String({PREVIEWS}) === String(wanted)", arg=sorted(shown))
    assert frontend.complaints() == []
    frontend.page.screenshot(path=tmp_path / "screen.png")
    assert next((server.folder / "output").glob("tiny_*.png"))


def test_the_template_browser_offers_the_workflows(server: ComfyServer) -> None:
    offered = server.get("/workflow_templates")
    assert sorted(offered["velocity-nodes"]) == SHIPPED
