"""Graphs of several samplers that are run twice, all here and all on the endpoint, and what they make."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file

from dev.endpoint import Endpoint
from dev.server import TINY_LORA, TINY_MODEL, ComfyServer

RED = "a large red circle at the left on a blue background"
GREEN = "a small green square at the right on a white background"
Link = list
_prefixes = itertools.count()  # a SaveLatent that is asked for the same file again does not run


class Branches:
    """A graph in API format, made node by node. In the remote form Offload stands behind each sampler."""

    def __init__(self, remote: bool, **widgets: Any) -> None:
        self.remote = remote
        self.widgets = {"endpoint": "default", "route": "remote", "on_failure": "raise", **widgets}
        self.graph: dict[str, dict] = {}
        self.saved: dict[str, str] = {}
        self.offloads = 0

    def add(self, class_type: str, output: int = 0, **inputs: Any) -> Link:
        """Add a node and return the link to one of its outputs."""
        name = str(len(self.graph) + 1)
        self.graph[name] = {"class_type": class_type, "inputs": inputs}
        return [name, output]

    def offload(self, sampler: Link, **widgets: Any) -> Link:
        """Return what stands for the sampler's output in this form."""
        if not self.remote:
            return sampler
        self.offloads += 1
        return self.add("VelocityOffload", samples=sampler, **{**self.widgets, **widgets})

    def save(self, name: str, latent: Link) -> None:
        """Keep a latent under a name."""
        prefix = f"latents/{next(_prefixes)}"
        self.saved[name] = self.add("SaveLatent", samples=latent, filename_prefix=prefix)[0]

    def model(self) -> Link:
        """Add the loader of the tiny model."""
        return self.add("UNETLoader", unet_name=TINY_MODEL, weight_dtype="default")

    def lora(self, model: Link, strength: float = 1.0) -> Link:
        """Add the tiny LoRA."""
        return self.add("LoraLoaderModelOnly", model=model, lora_name=TINY_LORA, strength_model=strength)

    def text(self, text: str = RED) -> Link:
        """Add a text encoder."""
        return self.add("TinyFluxTextEncode", text=text)

    def empty(self, batch: int = 1, width: int = 64) -> Link:
        """Add an empty latent; 64 is 32 pixels here."""
        return self.add("EmptyLatentImage", width=width, height=64, batch_size=batch)

    def mask(self) -> Link:
        """Add a mask of the left half."""
        whole = self.add("SolidMask", value=0.0, width=32, height=32)
        half = self.add("SolidMask", value=1.0, width=16, height=32)
        return self.add("MaskComposite", destination=whole, source=half, x=0, y=0, operation="add")

    def ksampler(self, model: Link, positive: Link, negative: Link, latent: Link, **widgets: Any) -> Link:
        """Add a KSampler."""
        widgets = {"seed": 7, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "denoise": 1.0, **widgets}
        links = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
        return self.add("KSampler", **links, **{"scheduler": "simple", **widgets})


def run(client: ComfyServer, branches: Branches, timeout: float = 600) -> dict[str, torch.Tensor]:
    """Run the graph and return the latents that it saved, by name."""
    outputs = client.run(branches.graph, timeout).outputs
    missing = [name for name, node in branches.saved.items() if node not in outputs]
    assert not missing, f"{missing} did not run:\n{client.log_text()[-2000:]}"
    latents = {}
    for name, node in branches.saved.items():
        files = [client.folder / "output" / file["subfolder"] / file["filename"] for file in outputs[node]["latents"]]
        latents[name] = torch.stack([load_file(file)["latent_tensor"] for file in files]).squeeze(0)
    return latents


def check_parity(
    client: ComfyServer, endpoint: Endpoint, build: Callable[[Branches], None], **widgets: Any
) -> dict[str, torch.Tensor]:
    """Check that the latents of both forms are equal bit for bit and different from each other, and return them."""
    here, there = Branches(remote=False), Branches(remote=True, **widgets)
    build(here)
    build(there)
    before = jobs_done(endpoint)
    remote = run(client, there)
    assert jobs_done(endpoint) - before == there.offloads > 0
    local = run(client, here)
    assert jobs_done(endpoint) - before == there.offloads
    different = [name for name in local if not torch.equal(local[name], remote[name])]
    assert different == [] and local
    assert all(bool(latent.isfinite().all()) and float(latent.std()) > 0.01 for latent in local.values())
    return local


def jobs_done(endpoint: Endpoint) -> int:
    """Return how many jobs the endpoint has done since it started."""
    return endpoint.metric('velocity_finished_total{state="done"}')
