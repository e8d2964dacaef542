"""Samplers that follow one another, behind one Offload: one job, the same bits, progress on each sampler's node."""

import pytest
from branches import GREEN, Branches, Link, jobs_done, run
from test_egress import egress
from watch import Watch

from dev.client import PromptError
from dev.endpoint import ONLY_THERE, Endpoint
from dev.server import ComfyServer

EXPERTS = {"steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "noise_seed": 21}
LATENT_BYTES = 16 * 8 * 8 * 4  # of the latent between them, in float32


def experts(branches: Branches) -> tuple[Link, Link]:
    """Add two KSamplerAdvanced with a model each, as Wan 2.2 has them, and return their outputs."""
    model, text = branches.model(), branches.text(GREEN)
    latent, links = branches.empty(), {"positive": text, "negative": text}
    high = branches.add(
        "KSamplerAdvanced",
        model=branches.lora(model),
        latent_image=latent,
        add_noise="enable",
        start_at_step=0,
        end_at_step=3,
        return_with_leftover_noise="enable",
        **EXPERTS,
        **links,
    )
    low = branches.add(
        "KSamplerAdvanced",
        model=model,
        latent_image=high,
        add_noise="disable",
        start_at_step=3,
        end_at_step=6,
        return_with_leftover_noise="disable",
        **EXPERTS,
        **links,
    )
    return high, low


def second_pass(branches: Branches) -> tuple[Link, Link]:
    """Add two KSamplers with the latent made larger between them."""
    model, text = branches.model(), branches.text(GREEN)
    first = branches.ksampler(model, text, text, branches.empty(), seed=22)
    larger = branches.add("LatentUpscaleBy", samples=first, upscale_method="bicubic", scale_by=1.5)
    return first, branches.ksampler(model, text, text, larger, seed=22, denoise=0.5)


def loading(log: str) -> bool:
    return "Requested to load" in log or "model weight dtype" in log


@pytest.mark.parametrize("build", [experts, second_pass])
@pytest.mark.parametrize("samplers", ["all before it", "this sampler"])
def test_the_same_bits(client: ComfyServer, endpoint: Endpoint, build: object, samplers: str) -> None:
    here, there = Branches(remote=False), Branches(remote=True, samplers=samplers)
    for branches in (here, there):
        branches.save("last", branches.offload(build(branches)[1]))
    client.free()
    before, seen = jobs_done(endpoint), len(client.log_text())
    remote = run(client, there)["last"]
    assert jobs_done(endpoint) == before + 1
    whole = samplers == "all before it"
    assert loading(client.log_text()[seen:]) is not whole, "the first sampler runs here only where that was asked for"
    assert (remote == run(client, here)["last"]).all()


def test_the_latent_between_does_not_travel(client: ComfyServer) -> None:
    def latents(**widgets: object) -> list[dict]:
        manifest = egress(client, lambda branches: experts(branches)[1], **widgets)
        return [tensor for tensor in manifest["tensors"] if tensor["type"] == "LATENT"]

    (empty,) = latents(deadline_seconds=500.0)
    assert empty["sha256"] is None, "the empty one is a shape"
    (between,) = latents(deadline_seconds=501.0, samplers="this sampler")
    assert between["sha256"] and between["bytes"] > LATENT_BYTES


def test_progress_of_each(client: ComfyServer) -> None:
    branches = Branches(remote=True)
    high, low = experts(branches)
    for sampler in (high, low):
        branches.graph[sampler[0]]["inputs"]["noise_seed"] = 23
    branches.save("last", branches.offload(low))
    with Watch(client) as watch:
        client.wait(watch.submit(branches.graph))
        watch.until("execution_success")
    steps = [message.data for message in watch.of("text") if "step" in message.data]
    assert steps == [f"sampler {number} of 2, step {step}/3" for number in (1, 2) for step in (1, 2, 3)]
    shown = [node for message in watch.of("progress_state") for node in message.data["nodes"].values()]
    counted = {node["display_node_id"] for node in shown if node["max"] == 3}
    assert counted == {high[0], low[0]}
    ended = {node["display_node_id"]: node["state"] for node in shown}
    assert ended[high[0]] == "finished", "its bar does not stay half way"


def test_an_offload_behind_each_is_two_jobs(client: ComfyServer, endpoint: Endpoint) -> None:
    branches = Branches(remote=True)
    model, text = branches.model(), branches.text(GREEN)
    first = branches.offload(branches.ksampler(model, text, text, branches.empty(), seed=24))
    branches.save("last", branches.offload(branches.ksampler(model, text, text, first, seed=24, denoise=0.5)))
    before = jobs_done(endpoint)
    run(client, branches)
    assert jobs_done(endpoint) == before + 2


def test_what_the_endpoint_lacks_between_them(client: ComfyServer, endpoint: Endpoint) -> None:
    """The first sampler runs here, and that is said in the log, on the node, and in the error where it can't."""

    def build(branches: Branches, name: str) -> None:
        model, text = branches.model(), branches.text(GREEN)
        branches.graph[model[0]]["inputs"]["unet_name"] = name
        first = branches.ksampler(model, text, text, branches.empty(), seed=25)
        passed = branches.add("OffloadTestPass", latent=first)
        branches.save("last", branches.offload(branches.ksampler(model, text, text, passed, seed=25, denoise=0.5)))

    branches = Branches(remote=True)
    name = branches.graph[branches.model()[0]]["inputs"]["unet_name"]
    branches = Branches(remote=True)
    build(branches, name)
    said = "KSampler (node 4) runs here, as the endpoint does not run OffloadTestPass (node 5)"
    with Watch(client) as watch:
        client.wait(watch.submit(branches.graph))
        assert watch.until("text", "done in").data.endswith(said)
    assert said in client.log_text()

    (client.folder / "models" / "diffusion_models" / ONLY_THERE).touch()
    branches = Branches(remote=True)
    build(branches, ONLY_THERE)
    words = rf"node 4\) runs here.*needs {ONLY_THERE} \(UNETLoader, node 1\), which is an empty file on this machine"
    with pytest.raises(PromptError, match=words):
        run(client, branches)


@pytest.mark.parametrize("route", ["remote", "auto"])
def test_a_switch_for_a_lora(client: ComfyServer, endpoint: Endpoint, route: str) -> None:
    """The turbo switch of the official templates, with files that are there for the branch that is chosen alone."""
    (client.folder / "models" / "diffusion_models" / ONLY_THERE).touch()
    (client.folder / "models" / "loras" / "nowhere.safetensors").touch()

    def build(branches: Branches) -> Link:
        model, text = branches.model(), branches.text(GREEN)
        branches.graph[model[0]]["inputs"]["unet_name"] = ONLY_THERE
        turbo = branches.add("LoraLoaderModelOnly", model=model, lora_name="nowhere.safetensors", strength_model=1.0)
        state = branches.add("PrimitiveBoolean", value=False)
        switched = branches.add("ComfySwitchNode", switch=state, on_false=model, on_true=turbo)
        return branches.ksampler(switched, text, text, branches.empty(), seed=26)

    before = jobs_done(endpoint)
    sent = egress(client, build, route=route)["graph"]
    assert jobs_done(endpoint) == before + 1
    assert sorted(node["class_type"] for node in sent.values()) == ["KSampler", "UNETLoader"]
