"""Make the workflow files with ComfyUI's own frontend: `python -m dev.author_workflows [NAME ...]`.

The frontend turns each API graph of `workflow_graphs` into a UI workflow, so the files are what Save would have
written. A screenshot becomes the thumbnail of the template browser. Run it again after a node got a new input.
"""

import io
import json
import sys
import uuid
from pathlib import Path

from PIL import Image

from .frontend import Frontend, open_frontend
from .server import ROOT, ComfyServer
from .workflow_graphs import CHAINS, MODELS, Workflow, demo, shipped

REGISTRY_NAME = "velocity-nodes"
THUMBNAIL = (800, 400)
BUILD = """async ({graph, places, note}) => {
    await app.loadApiJson(graph, "authoring");
    for (const node of app.graph.nodes) {
        node.pos = places[node.id];
        if (node.type === "VelocitySpeedReport") node.size = [640, 480];
        if (node.type === "SaveImage") node.size = [440, 480];
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = "fixed";
    }
    const text = LiteGraph.createNode("MarkdownNote");
    app.graph.add(text);
    text.pos = [-340, 0];
    text.size = [300, 290];
    text.widgets[0].value = note;
}"""


FILL_SCREEN = """() => {
    window.app.extensionManager.command.execute("Workspace.ToggleFocusMode");
    const aside = ["MarkdownNote", "VelocitySpeedReport", "SaveImage"];  // without them the rest is readable
    const nodes = app.graph.nodes.filter(n => !aside.includes(n.type));
    const left = Math.min(...nodes.map(n => n.pos[0])), right = Math.max(...nodes.map(n => n.pos[0] + n.size[0]));
    const top = Math.min(...nodes.map(n => n.pos[1])) - 30, bottom = Math.max(...nodes.map(n => n.pos[1] + n.size[1]));
    const view = app.canvas.ds;
    view.scale = Math.min(innerWidth / (right - left + 80), innerHeight / (bottom - top + 80));
    view.offset = [innerWidth / view.scale / 2 - (left + right) / 2, innerHeight / view.scale / 2 - (top + bottom) / 2];
    app.canvas.setDirty(true, true);
}"""


def author(frontend: Frontend, workflow: Workflow, path: Path) -> None:
    """Write `workflow` to `path` in UI format."""
    frontend.page.evaluate(BUILD, {"graph": workflow.graph, "places": workflow.places, "note": workflow.note})
    frontend.page.wait_for_timeout(1000)
    saved = frontend.serialized()
    saved["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{REGISTRY_NAME}/{path.stem}"))
    for node in saved["nodes"]:
        node["properties"] = _properties(node)
        for slot in node.get("inputs", []) + node.get("outputs", []):
            for name in [name for name, value in slot.items() if value is None and name != "link"]:
                del slot[name]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8", newline="\n")


def _properties(node: dict) -> dict:
    """Return what lets the frontend find a missing node's pack and offer missing models."""
    if node["type"] == "MarkdownNote":
        return {}
    ours = node["type"].startswith("Velocity")
    properties = {"Node name for S&R": node["type"]}
    if not node["type"].startswith("TinyFlux"):
        properties["cnr_id"] = REGISTRY_NAME if ours else "comfy-core"
    wanted = [value for value in node.get("widgets_values") or [] if value in MODELS]
    if wanted:
        properties["models"] = [{"name": n, "url": MODELS[n][1], "directory": MODELS[n][0]} for n in wanted]
    return properties


def thumbnail(server: ComfyServer, path: Path) -> None:
    """Write a picture of the workflow `path` beside it (.jpg), as a user sees it after opening it."""
    with open_frontend(server, nodes_2=True, size=(1400, 700)) as frontend:
        frontend.load(path)
        frontend.page.evaluate(FILL_SCREEN)
        frontend.page.wait_for_timeout(1500)
        shot = Image.open(io.BytesIO(frontend.page.screenshot()))
    shot.convert("RGB").resize(THUMBNAIL, Image.Resampling.LANCZOS).save(path.with_suffix(".jpg"), quality=85)


def main() -> None:
    """Write the named workflows, or all."""
    with ComfyServer() as server:
        hidden = ("Comfy.Minimap.Visible", "Comfy.Graph.CanvasMenu", "Comfy.Graph.CanvasInfo")
        server.post("/settings", dict.fromkeys(hidden, False))
        for file, (folder, _) in MODELS.items():  # the loaders list files by name; nothing is loaded here
            (server.folder / "models" / folder).mkdir(exist_ok=True)
            (server.folder / "models" / folder / file).touch()
        for name in sys.argv[1:] or CHAINS:
            path = ROOT / "workflows" / f"{name}.json"
            with open_frontend(server, nodes_2=True) as frontend:
                author(frontend, demo(name), ROOT / "demo" / "workflows" / f"{name}_tiny.json")
                author(frontend, shipped(name), path)
            thumbnail(server, path)
            print(f"wrote {path.name}, its thumbnail and the demo's {name}_tiny.json")


if __name__ == "__main__":
    main()
