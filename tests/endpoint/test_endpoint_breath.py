"""No request keeps the others waiting: the time between two breaths of the event loop while hostile ones are let in."""

import asyncio
import json
import time

import pytest
from served_app import manifest, sampler_inputs, served

MANY = 10_000
LONGEST_BREATH = 5.0  # seconds, on a busy machine; one of these took 148
FILL = {"@fill": 0.0, "dtype": "float32", "shape": [1, 4, 8, 8]}


def with_nodes(**nodes: dict) -> dict:
    return {**manifest()["graph"], **nodes}


HOSTILE = {
    "one cut for many inputs": lambda: manifest(
        graph=sampler_inputs(**{f"a{n}": {"@cut": 0} for n in range(MANY)}), cuts=[[0] * MANY]
    ),
    "one cut of names for many inputs": lambda: manifest(
        graph=sampler_inputs(**{f"{n}.steps": {"@cut": 0} for n in range(MANY)}), cuts=[["known.safetensors"] * MANY]
    ),
    "one primitive for many inputs": lambda: manifest(
        graph=with_nodes(
            many={"class_type": "KSampler", "inputs": {f"a{n}": ["p", 0] for n in range(MANY)}},
            p={"class_type": "PrimitiveInt", "inputs": {f"value{n}": "x.safetensors" for n in range(MANY)}},
        )
    ),
    "many links": lambda: manifest(graph=sampler_inputs(**{f"a{n}": ["1", n % 64] for n in range(2 * MANY)})),
    "many values": lambda: manifest(graph=sampler_inputs(a=[[n, "text", {"b": None}] for n in range(MANY)])),
    "many tensors": lambda: manifest(cuts=[[FILL] * MANY]),
    "nested": lambda: manifest(cuts=[[json.loads("[" * 900 + "]" * 900)]]),
    "long texts": lambda: manifest(graph=sampler_inputs(**{f"a{n}": "x" * 19_000 for n in range(200)})),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_event_loop_breathes(tmp_path, name):
    body = json.dumps(HOSTILE[name]()).encode()

    async def scene(endpoint) -> tuple[int, float]:
        breaths = []

        async def breathe() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                breaths.append(time.monotonic() - before)

        breathing = asyncio.create_task(breathe())
        headers = {"Content-Type": "application/json"}
        async with endpoint.session.post("/v1/jobs", data=body, headers=headers) as answer:
            await answer.read()
        async with endpoint.other.get("/v1/health") as health:
            assert health.status == 200
        breathing.cancel()
        return answer.status, max(breaths)

    async def inside() -> tuple[int, float]:
        async with served(tmp_path) as endpoint:
            return await asyncio.wait_for(scene(endpoint), 60)

    status, longest = asyncio.run(inside())
    assert status in (200, 400, 413, 422)
    assert longest < LONGEST_BREATH
