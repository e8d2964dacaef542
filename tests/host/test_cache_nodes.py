"""The step cache nodes in a running ComfyUI: put in, taken out, interrupted, run for long."""

import re
import sys
import time

import psutil
import pytest
import torch

from demo.graph import painting
from demo.pictures import load
from dev.client import PromptError
from dev.server import ComfyServer

PROMPT = "a large red circle at the left on a blue background"
NODES = {
    "forecast": {"VelocityForecast": {"preset": "balanced"}},
    "first block": {"VelocityFirstBlockCache": {"preset": "balanced"}},
}
SUMMARY = re.compile(r"(Velocity Forecast|First Block Cache): (\d+) model calls, (\d+) full, (\d+) skipped")
GROWTH = 6 << 20  # bytes that ten runs may add; keeping the history of each run would add about 13 MB

each = pytest.mark.parametrize("nodes", NODES.values(), ids=NODES)


def paint(server: ComfyServer, seed: int, nodes: dict, steps: int = 28) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Return the picture and (full, skipped) of each run that the log has a line of."""
    seen = len(server.log_text())
    picture = load(server.run(painting(PROMPT, seed, nodes, steps)).images[0])
    return picture, [(int(full), int(skipped)) for _, _, full, skipped in SUMMARY.findall(server.log_text()[seen:])]


@each
def test_put_in_taken_out_put_in_again(server: ComfyServer, nodes: dict) -> None:
    """In one running server: with the node the picture is near, without it exactly the stock one, as often as asked."""
    seed = 200 + len(next(iter(nodes)))  # ComfyUI 0.18.2 returns no image for a prompt that it has just run
    stock, runs = paint(server, seed, {})
    assert not runs
    for _ in range(2):
        fast, runs = paint(server, seed, nodes)
        ((full, skipped),) = runs
        assert full + skipped == 28 and skipped > 9
        assert not torch.equal(fast, stock)
        assert (fast - stock).abs().mean() < 0.02
        again, runs = paint(server, seed, {})
        assert not runs
        assert torch.equal(again, stock)


@each
def test_never_skipping_is_the_stock_picture(server: ComfyServer, nodes: dict) -> None:
    (node,) = nodes
    limit = "tolerance" if node == "VelocityForecast" else "residual_diff_threshold"
    off = {node: {"preset": "custom", limit: 0.0}}
    stock, _ = paint(server, 22, {})
    result, runs = paint(server, 22, off)
    assert runs == [(28, 0)]
    assert torch.equal(result, stock)


@each
def test_an_interrupted_run_leaves_nothing(server: ComfyServer, nodes: dict) -> None:
    fresh, _ = paint(server, 23, nodes)
    stock, _ = paint(server, 24, {})
    seen = len(server.log_text())
    prompt_id = server.submit(painting(PROMPT, 25, nodes, steps=5000))
    deadline = time.monotonic() + 300
    while not re.search(r"[1-9]\d/5000", server.log_text()[seen:]):  # the progress bar: well into the run
        assert time.monotonic() < deadline
        time.sleep(0.02)
    server.interrupt()
    with pytest.raises(PromptError) as caught:
        server.wait(prompt_id, timeout=300)
    assert caught.value.interrupted
    lines = [line for line in server.log_text()[seen:].splitlines() if SUMMARY.search(line)]
    assert len(lines) == 1 and "(interrupted)" in lines[0]
    assert torch.equal(paint(server, 23, nodes)[0], fresh)
    assert torch.equal(paint(server, 24, {})[0], stock)


@each
def test_a_second_step_cache_is_an_error_that_names_the_cure(server: ComfyServer, nodes: dict) -> None:
    easy = {"EasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}}
    for order in ({**nodes, **easy}, {**easy, **nodes}):
        with pytest.raises(PromptError, match="two step caches.*EasyCache.*remove or bypass") as caught:
            server.run(painting(PROMPT, 26, order))
        assert caught.value.details["node_type"] == "KSampler"


@each
def test_memory_does_not_grow(server: ComfyServer, nodes: dict) -> None:
    process = psutil.Process(server.process.pid)

    def run(seed: int) -> None:
        graph = painting(PROMPT, seed, nodes, steps=6)
        graph["empty"]["inputs"]["batch_size"] = 16
        graph["save"]["inputs"]["images"] = ["one", 0]
        graph["one"] = {
            "class_type": "ImageFromBatch",
            "inputs": {"image": ["picture", 0], "batch_index": 0, "length": 1},
        }
        server.run(graph)

    for seed in range(6):
        run(seed)
    grown = []
    for first in (10, 20, 30):
        before = process.memory_info().rss
        for seed in range(first, first + 10):
            run(seed)
        grown.append(process.memory_info().rss - before)
    sys.stdout.write(f"grown by {', '.join(f'{growth / 2**20:.1f}' for growth in grown)} MB\n")
    assert min(grown) < GROWTH  # a leak shows every time, what the allocator keeps to itself only once
