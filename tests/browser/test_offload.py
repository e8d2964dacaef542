"""A workflow with Offload and a real endpoint: what the user sees on the sampler's node while the job runs."""

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.endpoint import Endpoint
from dev.frontend import open_frontend
from dev.server import ComfyServer

from .test_workflows import workflow_file

STEPS = 150
SAMPLER, OFFLOAD = "5", "30"  # the nodes' ids in the file
SET = "([id, name, value]) => { window.app.graph.getNodeById(id).widgets.find(w => w.name === name).value = value; }"
PREVIEWS = "() => Object.keys(window.app.nodePreviewImages)"
DONE_TEXT = "^done in .* no pixels, no prompt text, no sound$"
HEAR = "() => { window.heard = []; window.app.api.addEventListener('progress_text', e => heard.push(e.detail)); }"
DONE = f"() => heard.filter(({{text}}) => /{DONE_TEXT}/.test(text)).map(({{nodeId}}) => nodeId)"
TEXTS = """() => window.app.graph.nodes.flatMap(node => (node.widgets ?? [])
    .filter(widget => widget.name === "$$node-text-preview").map(widget => [String(node.id), widget.value]))"""


@pytest.fixture(scope="module")
def connected(server: ComfyServer) -> Iterator[ComfyServer]:
    """Another ComfyUI, with an endpoint. The one of the other tests has none, and skips them if there is no browser."""
    with Endpoint() as endpoint, ComfyServer() as running:
        endpoint.connect(running)
        yield running


@pytest.mark.parametrize("nodes_2", [False, True], ids=["canvas", "nodes-2"])
def test_preview_and_text_are_on_the_samplers_node(connected: ComfyServer, nodes_2: bool, tmp_path: Path) -> None:
    with open_frontend(connected, nodes_2=nodes_2) as frontend:
        page = frontend.page
        frontend.load(workflow_file("offload_tiny"))
        for name, value in {"steps": STEPS, "seed": 900 + nodes_2}.items():
            page.evaluate(SET, [int(SAMPLER), name, value])
        page.evaluate(SET, [int(OFFLOAD), "route", "remote"])
        page.evaluate(HEAR)
        page.locator("[data-testid=queue-button]").first.click()
        page.get_by_text(re.compile(rf"^step \d+/{STEPS}$")).wait_for()
        page.wait_for_function(f"{PREVIEWS[6:]}.length")
        page.screenshot(path=tmp_path / "running.png")
        assert page.evaluate(PREVIEWS) == [SAMPLER]
        assert [node for node, _ in page.evaluate(TEXTS)] == [SAMPLER]
        page.wait_for_function(f"{DONE[6:]}.length")
        assert page.evaluate(DONE) == [SAMPLER]
        if _frontend() <= (1, 47):  # 1.58 takes texts away when the job is done
            page.get_by_text(re.compile(DONE_TEXT)).wait_for()
            assert [node for node, _ in page.evaluate(TEXTS)] == [SAMPLER]
        assert frontend.complaints() == []
    assert "Requested to load" not in connected.log_text()


def _frontend() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("comfyui-frontend-package").split(".")[:2])
