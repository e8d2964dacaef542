"""Graphs of real node classes, and what is sent of them."""

import copy
import json

from velocity_nodes.remote.client.cut import Cut, cut_graph
from velocity_nodes.remote.client.graph_view import GraphView
from velocity_nodes.remote.client.node_types import NodeTypes

from dev.node_classes import load_classes

CLASSES = load_classes()


def node(class_type: str, **inputs: object) -> dict:
    """A node that its class would accept: no input that it does not have, none of the required ones missing."""
    declared = CLASSES[class_type].INPUT_TYPES()
    assert set(inputs) <= set(declared.get("required", {})) | set(declared.get("optional", {}))
    return {"class_type": class_type, "inputs": inputs}


WIDGETS = {"seed": 7, "steps": 20, "cfg": 7.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


def base(**changes: object) -> dict[str, dict]:
    """Checkpoint, two prompts, empty latent, KSampler; `changes` are the sampler's inputs."""
    inputs = {"model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], "latent_image": ["empty", 0]}
    return {
        "ckpt": node("CheckpointLoaderSimple", ckpt_name="sd.safetensors"),
        "pos": node("CLIPTextEncode", clip=["ckpt", 1], text="a red fox"),
        "neg": node("CLIPTextEncode", clip=["ckpt", 1], text="blurry"),
        "empty": node("EmptyLatentImage", width=512, height=512, batch_size=1),
        "sampler": node("KSampler", **WIDGETS | inputs | changes),
    }


def cut(
    graph: dict, output: list | None = None, remote_text: bool = False, without: tuple = (), chain: bool = True
) -> Cut:
    before = copy.deepcopy(graph)
    available = set(CLASSES) - set(without)
    view = GraphView(graph.__getitem__, NodeTypes(CLASSES), graph)
    found = cut_graph(view, output or ["sampler", 0], remote_text, available, chain)
    assert graph == before, "the user's graph was changed"
    assert list(found.names) == list(found.graph)
    json.dumps(vars(found))
    return found


def classes_of(found: Cut) -> list[str]:
    return sorted(node["class_type"] for node in found.graph.values())


def sent(found: Cut, class_type: str) -> dict:
    """The inputs of the one node of this class that is sent."""
    (inputs,) = (node["inputs"] for node in found.graph.values() if node["class_type"] == class_type)
    return inputs


def switch(yes: list, no: list, state: object = True) -> dict:
    """Core's switch; `state` may be a link, behind which it can't be known before it runs."""
    return node("ComfySwitchNode", switch=state, on_false=no, on_true=yes)
