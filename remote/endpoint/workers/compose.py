"""A manifest becomes a prompt for the worker: receive what was cut, the client's graph, return its output."""

import json
import os
from collections.abc import Container
from typing import Any

from ..admission.graph import is_link

GRAPH, CUT, RETURN = "g.", "cut", "return"


def compose(manifest: dict[str, Any], result: str, sent: list[str], models: Container[str]) -> dict[str, Any]:
    """Return the prompt in ComfyUI's API format.

    `result` names the result file, `sent` the blobs that the client has, `models` the worker's model names with
    forward slashes.
    """
    prompt = {}
    for number, values in enumerate(manifest["cuts"]):
        prompt[f"{CUT}{number}"] = node("VelocityReceive", value=json.dumps(values, separators=(",", ":")))
    for node_id, sent_node in manifest["graph"].items():
        inputs = {name: _input(value, models) for name, value in sent_node["inputs"].items()}
        prompt[GRAPH + node_id] = {"class_type": sent_node["class_type"], "inputs": inputs}
    prompt[RETURN] = node("VelocityReturn", value=graph_link(manifest["output"]), job=result, sent=json.dumps(sent))
    return prompt


def graph_link(link: list) -> list:
    """Return a link of the client's graph as it is called in the prompt."""
    return [GRAPH + link[0], link[1]]


def _input(value: Any, models: Container[str]) -> Any:
    if is_link(value):
        return graph_link(value)
    if isinstance(value, dict) and set(value) == {"@cut"}:
        return [f"{CUT}{value['@cut']}", 0]
    if isinstance(value, str) and value.replace("\\", "/") in models:
        return value.replace("\\", "/").replace("/", os.sep)  # the client may run on another system
    return value


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Return a node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}
