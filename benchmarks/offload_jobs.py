"""Jobs for the tiny model, as Offload cuts them from the demo's graph, each with a seed of its own."""

import itertools
import uuid
from dataclasses import dataclass
from typing import Any

import torch
from velocity_nodes.remote.wire.blob import blob_name
from velocity_nodes.remote.wire.values import pack

from demo.tiny_flux.codecs import encode_prompt
from dev.server import TINY_MODEL

PROMPTS = (
    "a large red circle at the left on a blue background",
    "a small green square at the top on a white background",
)


@dataclass(frozen=True)
class TinyJob:
    """A manifest and the blobs that its cuts mention."""

    manifest: dict[str, Any]
    blobs: dict[str, bytes]

    @property
    def seed(self) -> int:
        """The sampler's seed, which no other job of this process has."""
        return self.manifest["graph"]["1"]["inputs"]["seed"]


class TinyJobs:
    """Makes jobs of `steps` steps; nothing of them but model and conditioning is in any cache."""

    def __init__(self, steps: int, first_seed: int = 1) -> None:
        self.steps = steps
        self._seeds = itertools.count(first_seed)

    def new(self, prompt: str = PROMPTS[0], exact: bool = True, clock: bool = False) -> TinyJob:
        """Return a job with the next seed; with `clock` its model goes through the node StepClock."""
        blobs: dict[str, bytes] = {}
        graph = {
            "1": _node(
                "KSampler",
                model=["3" if clock else "2", 0],
                positive={"@cut": 0},
                negative={"@cut": 0},
                latent_image={"@cut": 1},
                seed=next(self._seeds),
                steps=self.steps,
                cfg=1.0,
                sampler_name="euler",
                scheduler="simple",
                denoise=1.0,
            ),
            "2": _node("UNETLoader", unet_name=TINY_MODEL, weight_dtype="default"),
        }
        if clock:
            graph["3"] = _node("StepClock", model=["2", 0])
        manifest = {
            "protocol": 1,
            "key": uuid.uuid4().hex,
            "graph": graph,
            "output": ["1", 0],
            "cuts": pack_cuts(prompt, blobs),
            "exact": exact,
            "preview": True,
            "deadline_seconds": 0,
        }
        return TinyJob(manifest, blobs)


def pack_cuts(prompt: str, blobs: dict[str, bytes]) -> list[list]:
    """Return the cuts, conditioning and empty latent, and put their tensors into `blobs`."""

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    tokens, pooled = encode_prompt(prompt)
    conditioning = [[tokens, {"pooled_output": pooled}]]
    latent = {"samples": torch.zeros(1, 4, 16, 16), "downscale_ratio_spacial": 8}  # as EmptyLatentImage makes it
    return [pack([conditioning], add), pack([latent], add)]


def _node(class_type: str, **inputs: object) -> dict:
    return {"class_type": class_type, "inputs": inputs}
