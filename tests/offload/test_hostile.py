"""An endpoint that answers whatever it likes: the picture is made here, the same, and the reason is told."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator

import pytest
import torch
from aiohttp import web
from branches import GREEN
from velocity_nodes.remote.wire.container import write_container
from watch import Watch

from demo.graph import offloaded, painting
from demo.pictures import load
from dev.server import ComfyServer
from tests.remote.bad_endpoint import KEY, BadEndpoint, answers, done, event_stream

CLASSES = ["KSampler", "UNETLoader", "LoraLoaderModelOnly"]
ABLE = {"node_classes": CLASSES, "warm": [], "seconds_per_job": None}
TAKEN = {"job": "j", "state": "queued", "missing": []}


def result(value: object) -> dict:
    """An endpoint whose job ends with this value, as a container has it."""
    file = io.BytesIO()
    write_container(file, value, {})
    return {"result": file.getvalue(), "events": [done(file.getvalue())]}


def fill(*shape: int) -> dict:
    return {"samples": {"@fill": 0.5, "dtype": "float32", "shape": list(shape)}}


async def fields_without_an_end(request: web.Request) -> web.StreamResponse:
    stream = await event_stream(request)
    with_newlines = "".join(f"field{n}: {'x' * 1000}\n" for n in range(1000)).encode()
    for _ in range(20):
        await stream.write(with_newlines)
    await stream.write(b"\nid: 1\nevent: step\ndata: " + b"[" * 100_000 + b"\n\n")
    return stream


WARNED = [("warning", {"message": f"<b>{n}</b>\n" + "x" * 5000}) for n in range(300)]
HOSTILE = {
    "capabilities": ({"capabilities": {**ABLE, "warm": [["a"]]}}, "warm.0"),
    "health": ({"faults": {"health": [answers(200, {"queued": 0, "running": 0, "workers": ["x"]})]}}, "workers.0"),
    "job": ({"faults": {"submit": [answers(200, {**TAKEN, "job": "../x"})]}}, "job: String should match"),
    "fields without an end": ({"faults": {"events": [fields_without_an_end]}}, "Invalid JSON"),
    "a position": ({"events": [("queued", {"position": 10**4200})]}, "wrong"),
    "warnings": ({"events": [*WARNED, ("failed", {"code": "x", "message": "<img src=x>\nERROR forged"})]}, "‹img"),
    "no latents": (result([{"samples": "x"}]), "a result without latents in it"),
    "another shape": (result([fill(1, 16, 24, 40)]), "a latent of shape"),
    "a large one": (result([fill(1, 16, 2**14, 2**14)]), "more bytes than are allowed"),
    "an impossible one": (result([fill(0, 2**40, 2**40)]), "an empty shape"),
}


@pytest.fixture
def hostile(client: ComfyServer, request: pytest.FixtureRequest) -> Iterator[BadEndpoint]:
    """The misbehaving endpoint of this case, `hostile` in the client's settings."""
    case, _ = HOSTILE[request.param]
    faults = {"submit": [answers(200, TAKEN)] * 9, **case.get("faults", {})}
    endpoint = BadEndpoint(**{"capabilities": ABLE, **case, "faults": faults})
    loop, ready = asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def serve() -> None:
        async with endpoint.running():
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    settings = client.folder / "user" / "__velocity" / "endpoints.json"
    before = settings.read_text(encoding="utf-8")
    settings.write_text(
        json.dumps({**json.loads(before), "hostile": {"url": endpoint.url, "key": KEY}}), encoding="utf-8"
    )
    (settings.parent / "offload_history.json").unlink(missing_ok=True)
    yield endpoint
    settings.write_text(before, encoding="utf-8")
    loop.call_soon_threadsafe(over.set)
    thread.join(30)


@pytest.mark.parametrize(
    ("hostile", "reason", "seed"),
    [(name, reason, seed) for seed, (name, (_, reason)) in enumerate(HOSTILE.items(), 830)],
    indirect=["hostile"],
)
def test_whatever_it_answers_the_picture_is_made_here(
    client: ComfyServer, hostile: BadEndpoint, reason: str, seed: int
) -> None:
    graph, start = painting(GREEN, seed, steps=2), len(client.log_text())
    with Watch(client) as watch:
        picture = client.wait(watch.submit(offloaded(graph, endpoint="hostile", route="remote"))).images[0]
        said = watch.until("text", "running locally").data
    assert reason in said and "\n" not in said and "<" not in said
    assert torch.equal(load(picture), load(client.run(graph).images[0]))
    printed = client.log_text()[start:]
    assert "Offload: running locally" in printed and "\nERROR forged" not in printed
    assert len(printed) < 60_000, "a job's warnings end"
