"""What the fault tests stand on: a user's ComfyUI and the endpoint that it uses."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import torch
from endpoint_side import EndpointSide

from demo.graph import offloaded, painting, with_second_pass
from demo.pictures import load
from demo.tiny_flux.words import COLOURS, PLACES, SHAPES, SIZES
from dev.endpoint import KEY, Endpoint
from dev.server import ComfyServer


class Rig(EndpointSide):
    """`client` is the user's ComfyUI; its settings know the endpoint as `default`."""

    def __init__(self, endpoint: Endpoint, client: ComfyServer) -> None:
        super().__init__(endpoint)
        self.client = client
        self._prompts: Iterator[tuple] = itertools.product(SIZES, COLOURS, SHAPES, PLACES, COLOURS)

    def connect(self, name: str, url: str, patience_seconds: float = 30.0, key: str = KEY) -> str:
        """Write an endpoint into the private settings of the user's ComfyUI; return its name."""
        file = self.client.folder / "user" / "__velocity" / "endpoints.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        known[name] = {"url": url, "key": key, "patience_seconds": patience_seconds}
        file.write_text(json.dumps(known), encoding="utf-8")
        return name

    def graph(self, steps: int = 4) -> dict:
        """Return a graph whose prompt and seed are new: its sampler, all of it local."""
        size, colour, shape, place, ground = next(self._prompts)
        return painting(f"a {size} {colour} {shape} at the {place} on a {ground} background", self.seed(), steps=steps)

    def heavy_graph(self) -> dict:
        """Return a graph that uploads a latent of 260 kB and gets one of that size back; one step of 0.3 s."""
        return with_second_pass(self.graph(steps=1), self.seed(), side=512)

    def picture(self, graph: dict) -> torch.Tensor:
        """Run a graph in the user's ComfyUI and return its picture."""
        return load(self.client.run(graph).images[0])

    def start(
        self, graph: dict, endpoint: str = "default", samplers: str = "this sampler", **widgets: Any
    ) -> "Painting":
        """Start to paint a graph with Offload behind its sampler; what a sampler before it makes is uploaded."""
        return Painting(self, graph, offloaded(graph, endpoint=endpoint, samplers=samplers, **widgets))


class Painting:
    """A prompt with Offload that runs in the user's ComfyUI."""

    def __init__(self, rig: Rig, graph: dict, with_offload: dict) -> None:
        self.rig, self.graph, self.log_start = rig, graph, len(rig.client.log_text())
        self.prompt_id = rig.client.submit(with_offload)

    def assert_right(self, timeout: float = 600) -> None:
        """Assert that the picture comes, and that it is the one that the graph alone makes here."""
        offloaded_picture = load(self.rig.client.wait(self.prompt_id, timeout).images[0])
        assert torch.equal(offloaded_picture, self.rig.picture(self.graph))

    @property
    def log(self) -> str:
        """What the user's ComfyUI printed since."""
        return self.rig.client.log_text()[self.log_start :]

    @property
    def ran_here(self) -> bool:
        """Whether the log says that the sampler ran on this machine."""
        return "Offload: running locally" in self.log
