"""Graphs that are more than loader, sampler and Offload: lists, primitives, nested nodes, Remote Sampler, caching."""

import pytest
import torch
from branches import GREEN, Branches, check_parity, jobs_done, run

from demo.graph import offloaded, painting
from demo.pictures import load
from dev.client import PromptError
from dev.endpoint import Endpoint
from dev.server import ComfyServer

PROMPT = "a large red circle at the left on a blue background"
UPLOAD_LIMIT = 2048  # bytes that a run with another seed may send


def test_linked_widgets(client: ComfyServer, endpoint: Endpoint) -> None:
    def build(branches: Branches) -> None:
        model, text, latent = branches.model(), branches.text(), branches.empty()
        seed, steps = branches.add("PrimitiveInt", value=77), branches.add("PrimitiveInt", value=4)
        cfg = branches.add("PrimitiveFloat", value=2.5)
        linked = branches.ksampler(model, text, branches.text(GREEN), latent, seed=seed, steps=steps, cfg=cfg)
        branches.save("linked", branches.offload(linked))
        typed = branches.ksampler(model, text, branches.text(GREEN), latent, seed=77, steps=4, cfg=2.5)
        branches.save("typed", branches.offload(typed))

    latents = check_parity(client, endpoint, build)
    assert torch.equal(latents["linked"], latents["typed"])


def test_lists(client: ComfyServer, endpoint: Endpoint) -> None:
    """A sampler that is given a list runs for each item; all of them come back, in order, in one job."""

    def build(branches: Branches) -> None:
        model, text = branches.model(), branches.text()
        seeds = branches.add("OffloadTestSeeds", first=30, count=3)
        branches.save("seeds", branches.offload(branches.ksampler(model, text, text, branches.empty(), seed=seeds)))
        latents = branches.add("RebatchLatents", latents=branches.empty(batch=4), batch_size=2)
        branches.save("latents", branches.offload(branches.ksampler(model, text, text, latents)))
        both = branches.offload(branches.ksampler(model, text, text, latents, seed=seeds))
        branches.save("both", both)
        once_more = branches.ksampler(model, text, text, both, denoise=0.5)
        branches.save("behind", branches.offload(once_more))

    latents = check_parity(client, endpoint, build)
    assert [latents[name].shape[:2] for name in ("seeds", "latents", "both", "behind")] == [
        (3, 1),
        (2, 2),
        (3, 2),
        (3, 2),
    ]
    assert not torch.equal(latents["seeds"][0], latents["seeds"][1])


def test_ids_of_subgraphs(client: ComfyServer, endpoint: Endpoint) -> None:
    """The frontend calls the nodes in a subgraph `12:5`, `12:7:3`."""
    graph = offloaded(painting(PROMPT, 401, steps=2))
    ids = {"loader": "12:5", "sampler": "12:7:3", "offload": "12:8", "text": "4"}

    def renamed(value: object) -> object:
        return [ids.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    nested = {
        ids.get(name, name): {**node, "inputs": {key: renamed(value) for key, value in node["inputs"].items()}}
        for name, node in graph.items()
    }
    before = jobs_done(endpoint)
    picture = load(client.run(nested).images[0])
    assert jobs_done(endpoint) == before + 1
    assert torch.equal(picture, load(client.run(painting(PROMPT, 401, steps=2)).images[0]))


@pytest.mark.parametrize("route", ["remote", "local"])
def test_offload_in_an_expansion(client: ComfyServer, endpoint: Endpoint, route: str) -> None:
    """The expanding node gives its sampler the conditioning and the latent themselves, not links to them."""
    branches = Branches(remote=False)
    model, text, latent = branches.model(), branches.text(), branches.empty()
    links = {"conditioning": text, "latent": latent, "seed": 41}
    branches.save("nested", branches.add("OffloadTestNested", model=model, route=route, **links))
    branches.save("plain", branches.ksampler(model, text, text, latent, seed=41))
    before = jobs_done(endpoint)
    latents = run(client, branches)
    assert jobs_done(endpoint) - before == (1 if route == "remote" else 0)
    assert torch.equal(latents["nested"], latents["plain"])


def test_a_model_itself_in_an_expansion(client: ComfyServer) -> None:
    branches = Branches(remote=False)
    model, text, latent = branches.model(), branches.text(), branches.empty()
    links = {"conditioning": text, "latent": latent, "seed": 43}
    nested = branches.add("OffloadTestNestedModel", model=model, route="remote", **links)
    branches.save("nested", nested)
    with pytest.raises(PromptError, match="KSampler.model is no link but a MODEL itself.*set route to local"):
        run(client, branches)


def test_a_sampler_that_the_endpoint_lacks(client: ComfyServer, endpoint: Endpoint) -> None:
    """One that expands to others is such a one: `remote` names it, `auto` runs it here."""

    def graph(route: str) -> Branches:
        branches = Branches(remote=True, route=route)
        model, text, latent = branches.model(), branches.text(), branches.empty()
        sampled = branches.add("OffloadTestSampler", model=model, conditioning=text, latent=latent, seed=42)
        branches.save("wrapped", branches.offload(sampled) if route else sampled)
        return branches

    with pytest.raises(PromptError, match="does not run OffloadTestSampler .*--allow OffloadTestSampler.*local"):
        run(client, graph("remote"))
    seen = len(client.log_text())
    automatic = run(client, graph("auto"))["wrapped"]
    assert "running locally: the endpoint does not run OffloadTestSampler" in client.log_text()[seen:]
    assert torch.equal(automatic, run(client, graph(""))["wrapped"])


@pytest.mark.parametrize("route", ["remote", "local"])
def test_remote_sampler_is_ksampler(client: ComfyServer, endpoint: Endpoint, route: str) -> None:
    def build(branches: Branches, remote: bool) -> None:
        model, latent = branches.lora(branches.model()), branches.empty()
        for name, widgets in {"plain": {}, "guided": {"cfg": 5.0, "sampler_name": "dpmpp_2m", "denoise": 0.8}}.items():
            sampled = branches.ksampler(model, branches.text(), branches.text(GREEN), latent, seed=51, **widgets)
            if remote:
                node = branches.graph[sampled[0]]
                node["class_type"] = "VelocityRemoteSampler"
                node["inputs"] |= branches.widgets
            branches.save(name, sampled)

    here, there = Branches(remote=False), Branches(remote=True, route=route)
    build(here, remote=False)
    build(there, remote=True)
    before = jobs_done(endpoint)
    remote = run(client, there)
    assert jobs_done(endpoint) - before == (2 if route == "remote" else 0)
    local = run(client, here)
    assert all(torch.equal(local[name], remote[name]) for name in local)


def test_nothing_is_sent_twice(client: ComfyServer, endpoint: Endpoint) -> None:
    def counters() -> tuple[int, int]:
        return endpoint.metric("velocity_accepted_total"), endpoint.metric("velocity_received_bytes_total")

    def paint(seed: int, prefix: str) -> tuple[int, int]:
        before = counters()
        graph = offloaded(painting(PROMPT, seed, steps=2))
        graph["save"]["inputs"]["filename_prefix"] = prefix
        client.run(graph)
        after = counters()
        return after[0] - before[0], after[1] - before[1]

    paint(61, "first")
    assert paint(61, "first") == (0, 0)
    assert paint(61, "second") == (0, 0)  # only the picture is saved again
    jobs, sent = paint(62, "second")
    assert jobs == 1 and 0 < sent < UPLOAD_LIMIT


def test_the_local_model_is_not_loaded(client: ComfyServer) -> None:
    def loading(graph: dict) -> bool:
        client.free()
        seen = len(client.log_text())
        client.run(graph)
        log = client.log_text()[seen:]
        return "Requested to load" in log or "model weight dtype" in log

    assert not loading(offloaded(painting(PROMPT, 71, steps=2)))
    assert loading(offloaded(painting(PROMPT, 71, steps=2), route="local"))


def test_after_the_same_sampler_ran_here(client: ComfyServer, endpoint: Endpoint) -> None:
    """What is cached here changes nothing, in either order."""
    plain = load(client.run(painting(PROMPT, 81, steps=2)).images[0])
    before = jobs_done(endpoint)
    remote = load(client.run(offloaded(painting(PROMPT, 81, steps=2))).images[0])
    assert jobs_done(endpoint) == before + 1
    local = client.run(offloaded(painting(PROMPT, 81, steps=2), route="local"))
    assert jobs_done(endpoint) == before + 1
    assert torch.equal(plain, remote) and torch.equal(plain, load(local.images[0]))


def test_two_offloads_behind_one_sampler(client: ComfyServer) -> None:
    """They are one job; whichever fetches the result first, the other gets it too."""
    branches = Branches(remote=True)
    model, text, latent = branches.model(), branches.text(), branches.empty()
    sampled = branches.ksampler(model, text, text, latent, seed=91, steps=8)
    for name in ("one", "two", "three"):
        branches.save(name, branches.offload(sampled))
    latents = run(client, branches)
    assert torch.equal(latents["one"], latents["two"]) and torch.equal(latents["one"], latents["three"])
