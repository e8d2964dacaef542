"""A node whose outputs both the sampler on the endpoint and something here are made of."""

import json

import pytest
import torch
from branches import GREEN, Branches, Link, jobs_done, run

from dev import tiny_side_models as side
from dev.client import PromptError
from dev.endpoint import ONLY_THERE, Endpoint
from dev.server import ComfyServer


def sent(client: ComfyServer, branches: Branches) -> tuple[dict[str, torch.Tensor], dict]:
    """Run the graph and return its latents and the account of its one job."""
    folder = client.folder / "user" / "__velocity" / "egress"
    known = set(folder.glob("*.json"))
    latents = run(client, branches)
    (file,) = set(folder.glob("*.json")) - known
    return latents, json.loads(file.read_text(encoding="utf-8"))


def vace(b: Branches) -> None:
    """Wan VACE with a reference, whose frames are cut off behind the sampler by a number that the same node gives."""
    model = b.add("UNETLoader", unet_name=side.WAN_VACE, weight_dtype="default")
    texts = {name: b.add("OffloadTestText", text=name, width=4096) for name in ("positive", "negative")}
    vae, reference = b.add("VAELoader", vae_name=side.WAN_VAE), b.add("MaskToImage", mask=b.mask())
    size = {"width": 32, "height": 32, "length": 5, "batch_size": 1, "strength": 1.0}
    made = b.add("WanVaceToVideo", **texts, vae=vae, **size, reference_image=reference)
    sampled = b.offload(b.ksampler(model, made, [made[0], 1], [made[0], 2], cfg=2.0, steps=2))
    b.save("whole", sampled)
    b.save("trimmed", b.add("TrimVideoLatent", samples=sampled, trim_amount=[made[0], 3]))


def test_a_number_for_behind_the_sampler(client: ComfyServer, endpoint: Endpoint) -> None:
    here, there = Branches(remote=False), Branches(remote=True)
    vace(here)
    vace(there)
    before = jobs_done(endpoint)
    remote, account = sent(client, there)
    assert jobs_done(endpoint) == before + 1
    assert sorted(node["class_type"] for node in account["graph"].values()) == ["KSampler", "UNETLoader"]
    assert {tensor["type"] for tensor in account["tensors"]} == {"CONDITIONING", "LATENT"}
    assert account["statement"].startswith("pixels (CONDITIONING [0][0][1].vace_mask[0]"), "the mask is one"
    local = run(client, here)
    assert torch.equal(remote["whole"], local["whole"]) and torch.equal(remote["trimmed"], local["trimmed"])
    assert local["whole"].shape[2] == local["trimmed"].shape[2] + 1


def test_what_is_needed_here_is_not_sent_for_its_text(client: ComfyServer, endpoint: Endpoint) -> None:
    """With the text encoders there, a node with prompts behind it that something here needs, too, runs here alone."""

    def build(b: Branches) -> None:
        model = b.add("UNETLoader", unet_name=side.FLUX_FILL, weight_dtype="default")
        vae, pixels = b.add("VAELoader", vae_name=side.FLUX_VAE), b.add("MaskToImage", mask=b.mask())
        links = {"positive": b.text(), "negative": b.text(GREEN), "vae": vae, "pixels": pixels, "mask": b.mask()}
        made = b.add("InpaintModelConditioning", **links, noise_mask=True)
        b.save("start", [made[0], 2])
        b.save("last", b.offload(b.ksampler(model, made, [made[0], 1], [made[0], 2], cfg=2.0)))

    here, there = Branches(remote=False), Branches(remote=True, text_encoding="remote")
    build(here)
    build(there)
    remote, account = sent(client, there)
    assert account["prompt_text"] == []
    assert sorted(node["class_type"] for node in account["graph"].values()) == ["KSampler", "UNETLoader"]
    local = run(client, here)
    assert torch.equal(remote["last"], local["last"]) and torch.equal(remote["start"], local["start"])


def sampled_and_saved(b: Branches, model_name: str) -> Link:
    """A sampler with Offload behind it, whose own output is saved, too."""
    model, text = b.model(), b.text()
    b.graph[model[0]]["inputs"]["unet_name"] = model_name
    sampled = b.ksampler(model, text, text, b.empty(), seed=61)
    b.save("beside", sampled)
    b.save("last", b.offload(sampled))
    return sampled


def test_a_sampler_that_runs_on_both_sides_is_named(client: ComfyServer, endpoint: Endpoint) -> None:
    branches = Branches(remote=True)
    model_name = branches.graph[branches.model()[0]]["inputs"]["unet_name"]
    branches, seen = Branches(remote=True), len(client.log_text())
    sampled_and_saved(branches, model_name)
    latents = run(client, branches)
    assert torch.equal(latents["beside"], latents["last"])
    assert "KSampler (node 4) runs here, too, as SaveLatent (node 5) takes its LATENT" in client.log_text()[seen:]


def test_its_model_is_looked_for_before_anything_is_sent(client: ComfyServer, endpoint: Endpoint) -> None:
    (client.folder / "models" / "diffusion_models" / ONLY_THERE).touch()
    branches, before = Branches(remote=True), jobs_done(endpoint)
    sampled_and_saved(branches, ONLY_THERE)
    with pytest.raises(PromptError, match=rf"node 4\) runs here, too.*needs {ONLY_THERE}.*an empty file"):
        run(client, branches)
    assert jobs_done(endpoint) == before
