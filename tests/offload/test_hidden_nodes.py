"""The nodes that Offload expands to do nothing when a workflow file brings them along."""

import json

import pytest
from branches import GREEN
from velocity_nodes.remote.client.history import History, Work
from velocity_nodes.remote.client.route import LOCAL

from demo.graph import SAMPLER_NODE, painting
from dev.client import PromptError
from dev.endpoint import Endpoint
from dev.server import TINY_MODEL, ComfyServer

WORK = Work(TINY_MODEL, 2, 16 * 16)


def with_node(class_type: str, **inputs: object) -> dict:
    graph = painting(GREEN, 821, steps=2)
    graph["hidden"] = {"class_type": class_type, "inputs": {"samples": [SAMPLER_NODE, 0], **inputs}}
    graph["picture"]["inputs"]["samples"] = ["hidden", 0]
    return graph


def test_a_request_that_offload_did_not_write(client: ComfyServer, endpoint: Endpoint) -> None:
    """It would send a mask and say that no pixels left."""
    before = endpoint.metric("velocity_accepted_total")
    cut = {"graph": {"1": {"class_type": "KSampler", "inputs": {"latent_image": {"@cut": 0}}}}, "output": ["1", 0]}
    request = json.dumps({"cut": {**cut, "links": [["empty", 0]], "kinds": ["INT"]}, "options": {"route": "remote"}})
    for text in (request, "0" * 64 + request):
        with pytest.raises(PromptError, match="place Offload behind the sampler"):
            client.run(with_node("VelocityOffloadDispatch", request=text, shown_on="hidden", cut0=["empty", 0]))
    assert endpoint.metric("velocity_accepted_total") == before


def test_a_measurement_that_nobody_made(client: ComfyServer) -> None:
    folder = client.folder / "user" / "__velocity"
    before = History(folder).seconds(LOCAL, WORK)
    measure = json.dumps({"work": vars(WORK), "start": 0})
    with pytest.raises(PromptError, match="place Offload behind the sampler"):
        client.run(with_node("VelocityOffloadLocal", measure=measure))
    assert History(folder).seconds(LOCAL, WORK) == before
