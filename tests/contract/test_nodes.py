"""Workflows that people saved must load for ever: node ids, inputs, their order and outputs are frozen in nodes.json.

A node or an appended input is added to the file by hand; nothing in it may change or go.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import velocity_nodes

from dev.host import ROOT

# The files of a folder, and what ComfyUI's own samplers are called, are no contract of ours.
OUT_OF_OUR_HANDS = (("options", "model_name"), ("options", "sampler_name"), ("options", "scheduler"))
KSAMPLER_WIDGETS = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
SNAPSHOT = Path(__file__).with_name("nodes.json")


def node_classes() -> list:
    """The node classes as ComfyUI gets them."""

    async def load() -> list:
        extension = await velocity_nodes.comfy_entrypoint()
        return await extension.get_node_list()

    return asyncio.run(load())


def contract(node: type) -> dict:
    """What a saved workflow depends on: widget values are positional, links go by output index."""
    schema = node.GET_SCHEMA()
    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [
            {
                "name": item.id,
                "type": item.io_type,
                "optional": item.optional,
                **{
                    key: getattr(item, key)
                    for key in ("default", "options", "min", "max")
                    if hasattr(item, key) and (key, item.id) not in OUT_OF_OUR_HANDS
                },
            }
            for item in schema.inputs
        ],
        "outputs": [item.io_type for item in schema.outputs],
    }


def test_nodes_are_what_saved_workflows_expect() -> None:
    current = {node.GET_SCHEMA().node_id: contract(node) for node in node_classes()}
    assert current == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("node", node_classes(), ids=lambda node: node.__name__)
class TestEveryNode:
    def test_every_input_and_output_has_a_tooltip(self, node: type) -> None:
        schema = node.GET_SCHEMA()
        silent = [item.id for item in schema.inputs if not item.tooltip]
        assert not silent
        assert all(item.tooltip for item in schema.outputs)

    def test_few_inputs_are_shown_and_the_others_may_be_left_out(self, node: type) -> None:
        inputs = node.GET_SCHEMA().inputs
        copied = KSAMPLER_WIDGETS if node.__name__ == "VelocityRemoteSampler" else ()
        widgets = [item for item in inputs if hasattr(item, "default") and item.id not in copied]
        assert sum(not item.advanced for item in widgets) <= 3
        assert all(item.optional and item.default is not None for item in widgets if item.advanced)

    def test_has_a_help_page(self, node: type) -> None:
        page = ROOT / "web" / "docs" / f"{node.GET_SCHEMA().node_id}.md"
        assert len(page.read_text(encoding="utf-8")) > 200

    def test_runs_without_its_optional_inputs(self, node: type) -> None:
        """The defaults live in the schema and in the function, and must agree."""
        import inspect

        parameters = inspect.signature(node.execute).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        for item in node.GET_SCHEMA().inputs:
            if item.optional and item.id in parameters:
                assert parameters[item.id].default is not inspect.Parameter.empty
            else:
                assert takes_any or item.id in parameters


def test_loads_without_its_optional_dependency() -> None:
    """matplotlib draws the report; without it every node still loads, and nothing heavy is imported at start."""
    program = (
        "import sys, asyncio; sys.modules['matplotlib'] = None\n"
        "from dev.host import import_comfyui, import_pack\n"
        "import_comfyui(); pack = import_pack()\n"
        "import comfy_api.latest\n"
        "nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())\n"
        "heavy = ('kornia', 'fastapi', 'uvicorn', 'prometheus_client', 'ray')\n"
        "print(len(nodes), [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == f"{len(node_classes())} []"


def test_source_is_ascii_and_imports_itself_relatively() -> None:
    for folder in ("acceleration", "nodes", "remote"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert text.isascii(), path
            assert "import velocity_nodes" not in text and "from velocity_nodes" not in text, path
