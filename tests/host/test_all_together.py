"""Loader, LoRA, step cache and compiler in one graph of a running ComfyUI, in every order, and a saved model."""

import shutil
from collections.abc import Iterator

import psutil
import pytest
import torch

from acceleration.report.quality import psnr_each
from demo.graph import painting
from demo.pictures import load
from demo.together import COMPILING, PICTURES, SERVER_OPTIONS, paint_together
from dev.client import PromptError
from dev.server import TINY_LORA, TINY_MODEL, ComfyServer

PROMPT = "a large red circle at the left on a blue background"
LORA = {"LoraLoaderModelOnly": {"lora_name": TINY_LORA, "strength_model": 1.0}}
FORECAST = {"VelocityForecast": {"preset": "balanced"}}
FIRST_BLOCK = {"VelocityFirstBlockCache": {"preset": "balanced"}}
# All of torch.compile but the code generation, so that a run takes seconds.
COMPILE = {"VelocityCompileModel": {"mode": "default", "backend": "eager"}}


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(extra_args=SERVER_OPTIONS) as running:
        yield running


def paint(server: ComfyServer, seed: int, nodes: dict, precision: str | None = None, **changes: int) -> torch.Tensor:
    graph = painting(PROMPT, seed, nodes, precision=precision)
    graph["empty"]["inputs"].update(changes)
    return load(server.run(graph).images[0])


def compilations(server: ComfyServer) -> int:
    return server.log_text().count(COMPILING)


def test_the_demo_of_all_together(server: ComfyServer) -> None:
    """With real code generation: the picture stays near and the second LoRA strength compiles nothing."""
    together = paint_together(server)
    assert min(together.quality) > 38
    assert together.compilations == [2, 0]
    assert len(together.text().splitlines()) == 1 + len(PICTURES)


@pytest.mark.parametrize("cache", [FORECAST, FIRST_BLOCK], ids=["forecast", "first block"])
def test_every_order_works_and_stock_comes_back(server: ComfyServer, cache: dict) -> None:
    seed = 300 + len(next(iter(cache)))  # ComfyUI 0.18.2 returns no image for a prompt that it has just run
    stock = paint(server, seed, {})
    reference = paint(server, seed, LORA)
    for order in ((LORA, cache, COMPILE), (COMPILE, cache, LORA), (cache, COMPILE, LORA)):
        nodes = {name: inputs for node in order for name, inputs in node.items()}
        picture = paint(server, seed, nodes, precision="fp8 scaled")
        assert psnr_each(reference[None], picture[None])[0] > 35, list(nodes)
        assert not torch.equal(picture, reference)
    assert torch.equal(paint(server, seed, {}), stock)


def test_no_change_of_the_prompt_compiles_again(server: ComfyServer) -> None:
    nodes = {**LORA, **FORECAST, **COMPILE}
    paint(server, 41, nodes, precision="fp8 scaled")
    before = compilations(server)
    paint(server, 42, nodes, precision="fp8 scaled")
    paint(server, 43, nodes, precision="fp8 scaled", width=192, height=64)
    paint(server, 44, nodes, precision="fp8 scaled", batch_size=3)
    weaker = {"LoraLoaderModelOnly": {"lora_name": TINY_LORA, "strength_model": 0.3}}
    paint(server, 45, {**weaker, **FORECAST, **COMPILE}, precision="fp8 scaled")
    paint(server, 46, {**FORECAST, **COMPILE}, precision="fp8 scaled")
    assert compilations(server) == before


def test_memory_comes_back(server: ComfyServer) -> None:
    process, nodes = psutil.Process(server.process.pid), {**LORA, **FORECAST, **COMPILE}
    grown = []
    for first in (50, 60, 70):
        before = process.memory_info().rss
        for seed in range(first, first + 4):
            paint(server, seed, nodes, precision="fp8 scaled")
        server.free()
        grown.append(process.memory_info().rss - before)
    assert min(grown) < 8 << 20  # the model alone has 5 MB, and each round loads it anew


def test_a_saved_model_paints_the_same_in_a_stock_comfyui(server: ComfyServer) -> None:
    graph = painting(PROMPT, 81, precision="fp8 scaled")
    graph["keep"] = {
        "class_type": "VelocitySaveQuantizedModel",
        "inputs": {"model": ["loader", 0], "filename": "diffusion_models/tiny_fp8"},
    }
    picture = next(path for path in server.run(graph).images if path.name.startswith("demo"))
    saved = server.folder / "output" / "diffusion_models" / "tiny_fp8.safetensors"
    with ComfyServer(extra_args=SERVER_OPTIONS, stock=True) as stock:
        shutil.copyfile(saved, stock.folder / "models" / "diffusion_models" / saved.name)
        assert "VelocityForecast" not in stock.object_info()
        plain = painting(PROMPT, 81)
        plain["loader"]["inputs"]["unet_name"] = saved.name
        # A file's alignment in memory may change the last bit of a float32 sum, and so a pixel by one.
        assert (load(stock.run(plain).images[0]) - load(picture)).abs().max() <= 1.01 / 255
    graph["save"]["inputs"]["filename_prefix"] = "again"
    graph["sampler"]["inputs"]["seed"] = 82
    graph["loader"]["inputs"]["precision"] = "fp8 fast"
    with pytest.raises(PromptError, match="overwrite"):
        server.run(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_high_precision": "no_such_layer*"}, "no layer is named like"),
        ({"keep_high_precision": ""}, "keep_high_precision is empty"),
        ({"model_name": "broken.safetensors"}, "broken.safetensors"),
        ({"model_name": "../../" + TINY_MODEL}, "not in|not_in|no model"),
    ],
)
def test_bad_inputs_say_what_to_do(server: ComfyServer, change: dict, message: str) -> None:
    (server.folder / "models" / "diffusion_models" / "broken.safetensors").write_bytes(b"no model at all")
    graph = painting(PROMPT, 91, precision="fp8 scaled")
    graph["loader"]["inputs"].update(change)
    with pytest.raises(PromptError, match=message):
        server.run(graph)
