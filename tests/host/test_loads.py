"""The pack as a user installs it, in a real ComfyUI process."""

import asyncio

import comfyui_version
import pytest
import torch
import velocity_nodes

from demo.graph import painting
from demo.pictures import load
from demo.tiny_flux.words import COLOURS
from dev.client import PromptError
from dev.server import PACK_FOLDER, ComfyServer

PROMPT = "a large red circle at the left on a blue background"


def test_the_server_is_the_comfyui_under_test(server: ComfyServer) -> None:
    assert server.get("/system_stats")["system"]["comfyui_version"] == comfyui_version.__version__


@pytest.mark.parametrize("pack", [PACK_FOLDER, "tiny_flux"])
def test_the_pack_is_loaded_without_a_complaint(server: ComfyServer, pack: str) -> None:
    path = str(server.folder / "custom_nodes" / pack)
    lines = [line for line in server.log_text().splitlines() if path in line]
    assert any("seconds:" in line for line in lines)  # the table of import times
    symptoms = ("IMPORT FAILED", "Cannot import", "Error while calling comfy_entrypoint")
    assert not [line for line in lines if any(symptom in line for symptom in symptoms)]


def test_every_node_is_offered(server: ComfyServer) -> None:
    extension = asyncio.run(velocity_nodes.comfy_entrypoint())
    expected = {node.define_schema().node_id for node in asyncio.run(extension.get_node_list())}
    module = f"custom_nodes.{PACK_FOLDER}"
    offered = {name for name, node in server.object_info().items() if node["python_module"] == module}
    assert offered == expected
    assert "VelocityForecast" in offered


def test_tiny_flux_paints_the_prompt(server: ComfyServer) -> None:
    picture = load(server.run(painting(PROMPT, seed=2)).images[0])
    assert picture.shape == (64, 64, 3)
    inside, outside = picture[26:38, 12:24].mean((0, 1)), picture[8:56, 50:60].mean((0, 1))
    assert torch.allclose(inside, torch.tensor(COLOURS["red"]), atol=0.08)
    assert torch.allclose(outside, torch.tensor(COLOURS["blue"]) * 0.925, atol=0.08)  # backgrounds darken downwards


def test_image_to_image_keeps_the_picture(server: ComfyServer) -> None:
    graph = painting(PROMPT, seed=4)  # a seed of its own: older ComfyUI does not list the files of cached nodes again
    graph["encode"] = {"class_type": "TinyFluxEncode", "inputs": {"image": ["picture", 0]}}
    graph["decode"] = {"class_type": "TinyFluxDecode", "inputs": {"samples": ["encode", 0]}}
    graph["save again"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "again"}}
    images = {path.name.split("_")[0]: load(path) for path in server.run(graph).images}
    # The codec drops what a painted picture does not hold; clamping to 0..1 costs the rest.
    assert (images["demo"] - images["again"]).abs().mean() < 0.02


def test_an_unknown_word_is_a_clear_error(server: ComfyServer) -> None:
    with pytest.raises(PromptError, match="does not know the word 'cat'.*Use only: a on background") as caught:
        server.run(painting("a large red cat at the left on a blue background", seed=2))
    assert caught.value.details["node_type"] == "TinyFluxTextEncode"


def test_an_invalid_prompt_names_node_and_input(server: ComfyServer) -> None:
    with pytest.raises(PromptError, match=r"node sampler \(KSampler\): .*steps"):
        server.run(painting(PROMPT, seed=2, steps=-1))


def test_a_running_prompt_can_be_interrupted(server: ComfyServer) -> None:
    prompt_id = server.submit(painting(PROMPT, seed=3, steps=5000))
    while prompt_id not in str(server.get("/queue")["queue_running"]):
        pass
    server.interrupt()
    with pytest.raises(PromptError) as caught:
        server.wait(prompt_id, timeout=300)
    assert caught.value.interrupted
