"""`python -m nox -s templates`: which samplers of ComfyUI's official workflow templates Offload can send.

Each template (`comfyui-workflow-templates-json`, which ComfyUI itself requires) is opened in the real frontend and
read back as the graph that Run would send. What is behind its samplers is kept for the tests, without the texts, and
each sampler is cut and let in as the endpoint would, with the text encoders here and there; docs/templates.md has it.
`-- plan` takes the graphs that were kept.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from .frontend import open_frontend
from .host import import_comfyui, import_pack
from .server import ComfyServer

import_comfyui()
import_pack()

from velocity_nodes.remote.wire.model_names import MODEL_SUFFIXES  # noqa: E402

from .node_classes import load_classes  # noqa: E402
from .template_plans import EACH, page, plans, samplers  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
GRAPHS = ROOT / "tests" / "remote" / "templates.json"
PAGE = ROOT / "docs" / "templates.md"
LONGEST = 40  # characters of a text that is kept
# Whole workflows that call a paid service have no sampler, and need an account to be opened.
LEFT_OUT = ("api_", "index")
CONVERT = """async graph => {
    await window.app.loadGraphData(graph);
    return (await window.app.graphToPrompt()).output;
}"""


def main() -> None:
    """Convert, unless only `plan` is asked for; plan, write."""
    if "plan" not in sys.argv[1:]:
        lines = (f"{json.dumps(name)}: {json.dumps(graph)}" for name, graph in convert().items())
        GRAPHS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")
    found = plans(json.loads(GRAPHS.read_text(encoding="utf-8")), load_classes())
    text = page(found)
    PAGE.write_text(text, encoding="utf-8", newline="\n")
    print(text.partition(EACH)[0])


def convert() -> dict[str, dict[str, Any]]:
    """Return for each template with a sampler what is behind its samplers, in API format."""
    folder = files("comfyui_workflow_templates_json") / "templates"
    classes, graphs, failed = load_classes(), {}, {}
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json"))
    with ComfyServer() as server, open_frontend(server, nodes_2=False) as frontend:
        for name in names:
            if name.startswith(LEFT_OUT):
                continue
            workflow = json.loads((folder / name).read_text(encoding="utf-8"))
            try:
                graph = frontend.page.evaluate(CONVERT, workflow)
            except Exception as error:
                failed[name] = str(error).splitlines()[0]
                continue
            kept = without_texts(graph, classes)
            if kept:
                graphs[name.removesuffix(".json")] = kept
            print(f"{name}: {len(graph)} nodes, {len(kept)} kept", flush=True)
    for name, error in failed.items():
        print(f"could not be converted: {name}: {error}")
    return graphs


def without_texts(graph: dict[str, Any], classes: dict[str, type]) -> dict[str, Any]:
    """Return the nodes behind the samplers of a graph, with long texts cut off."""
    wanted, waiting = {}, samplers(graph, classes)
    while waiting:
        name = waiting.pop()
        if name in wanted or name not in graph:
            continue
        inputs = graph[name]["inputs"]
        wanted[name] = {
            "class_type": graph[name]["class_type"],
            "inputs": {key: _short(value) for key, value in inputs.items()},
        }
        waiting += [value[0] for value in inputs.values() if isinstance(value, list) and len(value) == 2]
    return wanted


def _short(value: Any) -> Any:
    """Return an input's value; of a text its beginning, unless it names a model."""
    is_text = isinstance(value, str) and not value.casefold().endswith(MODEL_SUFFIXES)
    return value[:LONGEST] if is_text else value


if __name__ == "__main__":
    main()
