"""What the user sees and can do while a job runs: progress, preview and text on the sampler's own node; interrupt."""

import json
import re
import time

import pytest
from branches import GREEN, Branches
from watch import Message, Watch

from demo.graph import OFFLOAD_NODE, SAMPLER_NODE, offloaded, painting
from dev.client import PromptError
from dev.endpoint import Endpoint
from dev.server import ComfyServer

STEPS, FOREVER = 40, 900
JPEG = b"\xff\xd8\xff"
DONE = re.compile(
    r"done in \d+\.\d s on default, (exact|unverified); sent \d+\.\d kB: no pixels, no prompt text, no sound"
)


def progress(watch: Watch) -> list[tuple[int, int]]:
    """Return the different states of the sampler's progress bar."""
    states = []
    for message in watch.of("progress_state"):
        for node in message.data["nodes"].values():
            if node["display_node_id"] == SAMPLER_NODE and (node["value"], node["max"]) not in states:
                states.append((node["value"], node["max"]))
    return states


def test_progress_preview_and_text(client: ComfyServer, endpoint: Endpoint) -> None:
    with Watch(client) as watch:
        prompt_id = watch.submit(offloaded(painting(GREEN, 501, steps=STEPS)))
        client.wait(prompt_id)
        watch.until("execution_success")
    # ComfyUI passes on ten states a second, the endpoint five previews; the text has every step.
    assert progress(watch)[-1] == (STEPS, STEPS) and len(progress(watch)) > 3
    assert [m.data for m in watch.of("text") if "step" in m.data] == [f"step {n}/{STEPS}" for n in range(1, STEPS + 1)]
    shown = {(message.node, message.data.get("display_node")) for message in watch.of("executing")}
    assert (OFFLOAD_NODE, OFFLOAD_NODE) in shown and SAMPLER_NODE in {display for _, display in shown}
    previews = watch.of("preview")
    assert len(previews) > 1
    assert all(preview.node == SAMPLER_NODE and preview.data["head"] == JPEG for preview in previews)
    assert {text.node for text in watch.of("text")} == {SAMPLER_NODE}
    assert DONE.fullmatch(watch.of("text")[-1].data)
    order = [("text", "running"), ("text", "step 1/"), ("preview", ""), ("text", f"step {STEPS}/"), ("text", "done")]
    assert_order(watch.messages, order)


def assert_order(messages: list[Message], wanted: list[tuple[str, str]]) -> None:
    """Check that such messages follow each other."""
    rest = iter(messages)
    for kind, beginning in wanted:
        found = (m.kind == kind and (kind != "text" or m.data.startswith(beginning)) for m in rest)
        assert any(found), (kind, beginning)


def until_free(endpoint: Endpoint) -> None:
    end = time.monotonic() + 60
    while any(endpoint.get("/v1/health")[name] for name in ("running", "queued")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_interrupt_frees_the_endpoint(client: ComfyServer, endpoint: Endpoint) -> None:
    cancelled = endpoint.metric('velocity_finished_total{state="cancelled"}')
    with Watch(client) as watch:
        prompt_id = watch.submit(offloaded(painting(GREEN, 502, steps=FOREVER)))
        watch.until("text", "step 2/")
        client.interrupt()
        watch.until("execution_interrupted")
        with pytest.raises(PromptError) as caught:
            client.wait(prompt_id)
    assert caught.value.interrupted
    until_free(endpoint)
    assert endpoint.metric('velocity_finished_total{state="cancelled"}') == cancelled + 1
    client.run(offloaded(painting(GREEN, 503, steps=2)))  # and both go on


def test_the_place_in_the_queue_is_shown(client: ComfyServer, endpoint: Endpoint) -> None:
    """Two samplers in one graph, one worker: the second waits and says so; an interrupt stops both."""
    graph = offloaded(painting(GREEN, 504, steps=FOREVER))
    second = {**graph["sampler"]["inputs"], "seed": 505}
    graph["second"] = {"class_type": "KSampler", "inputs": second}
    graph["second offload"] = {**graph["offload"], "inputs": {**graph["offload"]["inputs"], "samples": ["second", 0]}}
    graph["second save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["second offload", 0], "filename_prefix": "queued"},
    }
    with Watch(client) as watch:
        watch.submit(graph)
        queued = watch.until("text", "queued 2nd")
        watch.until("text", "step 2/")
        client.interrupt()
        watch.until("execution_interrupted")
    stepped = {message.node for message in watch.of("text") if message.data.startswith("step")}
    assert stepped == {"sampler", "second"} - {queued.node}
    until_free(endpoint)


@pytest.mark.parametrize("kind", ["Remote Sampler", "nested"])
def test_a_node_that_expands_shows_it_itself(client: ComfyServer, endpoint: Endpoint, kind: str) -> None:
    branches = Branches(remote=True)
    model, text, latent = branches.model(), branches.text(), branches.empty()
    if kind == "nested":
        links = {"conditioning": text, "latent": latent, "seed": 512}
        node = branches.add("OffloadTestNested", model=model, route="remote", **links)
    else:
        node = branches.ksampler(model, text, text, latent, seed=511)
        branches.graph[node[0]]["class_type"] = "VelocityRemoteSampler"
        branches.graph[node[0]]["inputs"] |= branches.widgets
    branches.save("result", node)
    with Watch(client) as watch:
        client.wait(watch.submit(branches.graph))
        watch.until("execution_success")
    assert (
        {message.node for message in watch.of("text")} == {message.node for message in watch.of("preview")} == {node[0]}
    )
    steps = [shown for message in watch.of("progress_state") for shown in message.data["nodes"].values()]
    assert {shown["display_node_id"] for shown in steps if shown["max"] == 3} == {node[0]}


@pytest.mark.parametrize("kind", ["Offload", "Remote Sampler"])
def test_why_it_runs_here_is_shown(client: ComfyServer, kind: str) -> None:
    graph = painting(GREEN, 520, steps=2)
    settings = client.folder / "user" / "__velocity" / "endpoints.json"
    known = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**known, "gone": {**known["default"], "url": "http://127.0.0.1:9"}}))
    if kind == "Offload":
        graph = offloaded(graph, endpoint="gone")
    else:
        graph["sampler"]["class_type"] = "VelocityRemoteSampler"
        graph["sampler"]["inputs"] |= {"endpoint": "gone", "route": "remote"}
    with Watch(client) as watch:
        client.wait(watch.submit(graph))
        said = watch.until("text", "running locally")
    assert said.node == SAMPLER_NODE
    assert re.match(r"running locally: the endpoint http://127\.0\.0\.1:9 does not answer .*velocity serve", said.data)
