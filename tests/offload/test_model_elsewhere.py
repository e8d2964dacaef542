"""A model that only the endpoint has: here an empty file stands for its name."""

import pytest
import torch

from demo.graph import offloaded, painting
from demo.pictures import load
from dev.client import PromptError
from dev.endpoint import ONLY_THERE
from dev.server import ComfyServer

PROMPT = "a large red circle at the left on a blue background"


def with_model(client: ComfyServer, name: str, graph: dict) -> dict:
    """Return the graph with the model `name`, for which there is an empty file here."""
    (client.folder / "models" / "diffusion_models" / name).touch()
    graph["loader"]["inputs"]["unet_name"] = name
    return graph


def test_an_empty_file_stands_for_the_model(client: ComfyServer) -> None:
    here = load(client.run(painting(PROMPT, 901, steps=4)).images[0])
    for route in ("remote", "auto"):
        graph = with_model(client, ONLY_THERE, offloaded(painting(PROMPT, 901, steps=4), route=route))
        assert torch.equal(load(client.run(graph).images[0]), here)
    assert f"{ONLY_THERE} has no hash here" in client.log_text()


def test_the_error_says_that_it_can_not_run_here_either(client: ComfyServer) -> None:
    graph = with_model(client, "nowhere.safetensors", offloaded(painting(PROMPT, 902, steps=4)))
    with pytest.raises(PromptError, match="does not have the model files.*nowhere.safetensors is not on this machine"):
        client.run(graph)
