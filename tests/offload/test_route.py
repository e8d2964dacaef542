"""Where a job goes: bypassed and local, auto with a history that is written by hand, and what the errors say."""

import json
import re
from pathlib import Path

import pytest
import torch
from velocity_nodes.remote.client.history import History, Work
from velocity_nodes.remote.client.route import LOCAL

from demo.graph import SAMPLER_NODE, offloaded, painting
from demo.pictures import load
from dev.client import PromptError, RunResult
from dev.endpoint import KEY, Endpoint
from dev.server import TINY_MODEL, ComfyServer

PROMPT = "a small green square at the right on a white background"
STEPS = 3
WORK = Work(TINY_MODEL, STEPS, 16 * 16)


@pytest.fixture
def history(client: ComfyServer) -> History:
    """An empty history of the client's."""
    folder = client.folder / "user" / "__velocity"
    (folder / "offload_history.json").unlink(missing_ok=True)
    return History(folder)


class Run:
    """One run: its result, what the log said meanwhile, and how many jobs the endpoint got."""

    def __init__(self, client: ComfyServer, endpoint: Endpoint, graph: dict) -> None:
        seen, before = len(client.log_text()), endpoint.metric("velocity_accepted_total")
        self.result: RunResult = client.run(graph)
        self.log = client.log_text()[seen:]
        self.jobs = endpoint.metric("velocity_accepted_total") - before


@pytest.mark.parametrize("case", ["local", "bypassed"])
def test_local_is_the_stock_graph(client: ComfyServer, endpoint: Endpoint, case: str) -> None:
    seed = 600 + len(case)
    graph = painting(PROMPT, seed, steps=STEPS)
    if case == "local":
        graph = offloaded(graph, route="local")  # a bypassed node is not in the prompt at all
    done = Run(client, endpoint, graph)
    assert done.jobs == 0 and "Offload" not in done.log
    again = Run(client, endpoint, offloaded(painting(PROMPT, seed, steps=STEPS)))
    assert again.jobs == 1
    assert torch.equal(load(done.result.images[0]), load(again.result.images[0]))


def test_local_keeps_the_sampler_in_the_cache(client: ComfyServer) -> None:
    """The user's own sampler runs, not a copy: put in or taken out, Offload does not make it run again."""
    client.run(painting(PROMPT, 610, steps=STEPS))
    graph = offloaded(painting(PROMPT, 610, steps=STEPS), route="local")
    graph["save"]["inputs"]["filename_prefix"] = "once more"
    assert SAMPLER_NODE in client.run(graph).cached


def test_auto_measures_then_decides(client: ComfyServer, endpoint: Endpoint, history: History) -> None:
    first = Run(client, endpoint, offloaded(painting(PROMPT, 620, steps=STEPS), route="auto"))
    assert first.jobs == 1 and "Offload: remote: measuring the endpoint once with this model" in first.log
    measured = History(history.file.parent)
    assert measured.seconds("default", WORK) > 0 and measured.wire("default")


def test_auto_stays_here_when_the_wire_costs_more(client: ComfyServer, endpoint: Endpoint, history: History) -> None:
    history.record_seconds("default", WORK, 0.1)
    history.record_seconds(LOCAL, WORK, 0.3)
    history.record_wire("default", 1e6, 1e6, 2.0)
    history.save()
    done = Run(client, endpoint, offloaded(painting(PROMPT, 630, steps=STEPS), route="auto"))
    assert done.jobs == 0
    numbers = re.search(r"Offload: local: remote (\d+\.\d) s \(queue .*wire (\d+\.\d).*\), local (\d+\.\d) s", done.log)
    assert numbers and [float(number) for number in numbers.groups()] == [2.1, 2.0, 0.3]


def test_auto_goes_away_when_that_is_sooner(client: ComfyServer, endpoint: Endpoint, history: History) -> None:
    history.record_seconds("default", WORK, 0.1)
    history.record_seconds(LOCAL, WORK, 5.0)
    history.record_wire("default", 1e6, 1e6, 0.2)
    history.save()
    done = Run(client, endpoint, offloaded(painting(PROMPT, 640, steps=STEPS), route="auto"))
    assert done.jobs == 1
    assert re.search(r"Offload: remote: remote 0\.3 s \(queue .*denoising 0\.1\), local 5\.0 s", done.log)


def test_auto_measures_this_machine_when_the_wire_is_most_of_it(
    client: ComfyServer, endpoint: Endpoint, history: History
) -> None:
    history.record_seconds("default", WORK, 0.1)
    history.record_wire("default", 1e6, 1e6, 3.0)
    history.save()
    client.free()
    done = Run(client, endpoint, offloaded(painting(PROMPT, 650, steps=STEPS), route="auto"))
    assert done.jobs == 0 and "measuring this machine once" in done.log
    assert History(history.file.parent).seconds(LOCAL, WORK) > 0


def test_an_endpoint_by_another_name(client: ComfyServer, endpoint: Endpoint) -> None:
    endpoint.connect(client, name="studio")
    graph = offloaded(painting(PROMPT, 660, steps=STEPS), endpoint="studio")
    done = Run(client, endpoint, graph)
    assert done.jobs == 1 and KEY not in done.log


WRONG = {
    "unknown name": ({"endpoint": "attic"}, "sampler", r"no endpoint is called 'attic'.*endpoints\.json.*default"),
    "an address": (
        {"endpoint": "http://10.0.0.5:8288"},
        "sampler",
        r"the widget takes a name, and no address.*endpoints\.json",
    ),
    "no sampler": ({}, "empty", r"EmptyLatentImage is no sampler.*connect Offload directly behind the sampler"),
    "Offload again": ({}, "offload", r"already comes from an offloading node; connect Offload behind a sampler"),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_say_what_to_do(client: ComfyServer, case: str) -> None:
    widgets, source, message = WRONG[case]
    graph = offloaded(painting(PROMPT, 670, steps=STEPS))
    graph["last"] = {"class_type": "VelocityOffload", "inputs": {"samples": [source, 0], "endpoint": "default"}}
    graph["last"]["inputs"] |= {"route": "remote", **widgets}
    graph["picture"]["inputs"]["samples"] = ["last", 0]
    with pytest.raises(PromptError, match=message) as caught:
        client.run(graph)
    assert caught.value.details["node_id"] == "last"


def test_a_live_object_from_here_is_an_error_that_names_the_node(client: ComfyServer) -> None:
    """What the types of the graph do not tell is found when the values are packed."""
    graph = offloaded(painting(PROMPT, 680, steps=STEPS))
    graph["live"] = {"class_type": "OffloadTestLive", "inputs": {"conditioning": ["text", 0]}}
    graph["sampler"]["inputs"]["positive"] = ["live", 0]
    with pytest.raises(PromptError, match=r"node live.*can't be sent.*Set route to local"):
        client.run(graph)
    graph["offload"]["inputs"]["route"] = "auto"
    assert client.run(graph).images


def files_with(text: str, folder: Path) -> list[Path]:
    """Return the files below a folder that hold the text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_the_key_stays_in_its_file(client: ComfyServer, endpoint: Endpoint) -> None:
    graph = offloaded(painting(PROMPT, 690, steps=STEPS))
    workflow = {"nodes": [{"id": 1, "type": "VelocityOffload", "widgets_values": ["default", "remote"]}]}
    body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    result = client.wait(client.post("/prompt", body)["prompt_id"])
    picture = result.images[0].read_bytes()
    assert b"VelocityOffload" in picture and b"workflow" in picture  # the graph is in the picture
    (client.folder / "user" / "default" / "workflows" / "saved.json").write_text(json.dumps(workflow), encoding="utf-8")
    settings = client.folder / "user" / "__velocity" / "endpoints.json"
    assert files_with(KEY, client.folder) == [settings]
    for path in ("/history", "/object_info", "/userdata?dir=workflows&recurse=true", "/settings"):
        assert KEY not in json.dumps(client.get(path)), path
    assert files_with(KEY, endpoint.folder) == []
