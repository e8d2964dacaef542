"""The endpoint's app under a real uvicorn on loopback with a scheduler that runs nothing, and what jobs are made of."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from velocity_nodes.remote.endpoint.api.door import Door, protocol_behind
from velocity_nodes.remote.endpoint.api.keys import Key, Keys
from velocity_nodes.remote.endpoint.cli import build
from velocity_nodes.remote.endpoint.settings import Limits, Settings
from velocity_nodes.remote.endpoint.store.job import CANCELLED, DONE, FAILED, RUNNING, Job
from velocity_nodes.remote.wire.blob import blob_name, encode_header

ANNA, BERTA = "anna-" + "k" * 20, "berta-" + "k" * 20
KEYS = Keys((Key("anna", ANNA), Key("berta", BERTA)), chosen=True)
CAPABILITIES = {
    "protocol": 1,
    "node_classes": ["KSampler", "UNETLoader", "EmptyLatentImage", "PrimitiveInt"],
    "models": {"diffusion_models": {"known.safetensors": 100, "flux/inside.safetensors": 100}},
}


class FakeScheduler:
    """Keeps what it is given; a test says what happens next. With `at_once` every job is done as soon as it comes."""

    def __init__(self, settings, journal, blobs, events, metrics) -> None:
        self.settings, self.journal, self.events = settings, journal, events
        self.submitted: list[Job] = []
        self.known: dict | None = CAPABILITIES
        self.workers = [{"state": "ready"}]
        self.at_once = False
        self.stopped = 0
        self.per_job: float | None = None
        self.on_done = lambda job: None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped += 1

    def submit(self, job: Job) -> None:
        self.submitted.append(job)
        self.events.emit(job.id, "queued", {"position": len(self.submitted) - 1, "seconds": None})
        if self.at_once:
            self.finish(job.id)

    def finish(self, job_id: str, content: bytes = b"result") -> None:
        self.events.emit(job_id, "running", {"worker": 0, "attempt": 1})
        self.journal.update(job_id, state=RUNNING, attempts=1)
        self.events.emit(job_id, "step", {"value": 1, "max": 1})
        (self.settings.results / f"{job_id}.bin").write_bytes(content)
        result = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "seconds": 0.1}
        self.journal.update(job_id, state=DONE, result=result)
        self.events.emit(job_id, "done", result)
        self.on_done(self.journal.get(job_id))

    def fail(self, job_id: str) -> None:
        error = {"code": "execution_error", "message": "it broke", "next": "mend it"}
        self.journal.update(job_id, state=FAILED, error=error)
        self.events.emit(job_id, "failed", error)

    async def cancel(self, job_id: str) -> None:
        self.journal.update(job_id, state=CANCELLED)
        self.events.emit(job_id, "cancelled", {})

    def capabilities(self) -> dict | None:
        return self.known

    def seconds_to_next_end(self) -> float | None:
        return self.per_job

    def health(self) -> dict:
        return {"queued": 0, "running": 0, "workers": self.workers, "starting_seconds": None}


class Served:
    """A running app: `session` is anna's, `other` berta's and `nobody` has no key."""

    def __init__(self, app: Any, url: str, scheduler: FakeScheduler) -> None:
        self.app, self.url, self.scheduler = app, url, scheduler

    async def submit(self, **changes: Any) -> dict:
        """Submit a manifest and return the answer, which must be a job."""
        async with self.session.post("/v1/jobs", json=manifest(**changes)) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def put(self, data: bytes) -> int:
        """Send a blob and return the status."""
        async with self.session.put(f"/v1/blobs/{blob_name(data)}", data=data) as answer:
            return answer.status

    async def error(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        """Return status and code of a request that is to be refused in the protocol's form."""
        async with self.session.request(method, path, **options) as answer:
            error = (await answer.json())["error"]
            assert error["message"] and error["next"]
            return answer.status, error["code"]

    async def events(self, job: str, **headers: str) -> list[tuple[int, str]]:
        """Follow a job to its end and return number and type of each event."""
        found = []
        async with self.session.get(f"/v1/jobs/{job}/events", headers=headers) as answer:
            assert answer.content_type == "text/event-stream"
            async for line in answer.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "event":
                    found.append((number, value))
        return found


@asynccontextmanager
async def served(data: Path, limits: Limits | None = None, **changes: Any) -> AsyncIterator[Served]:
    """Serve on the data folder until the block ends. `changes` are settings."""
    settings = Settings(Path("."), "python", data, limits=limits or Limits(), **changes)
    made = []

    def make_scheduler(*parts: Any) -> FakeScheduler:
        made.append(FakeScheduler(*parts))
        return made[0]

    app = build(settings, KEYS, make_scheduler)
    door = Door(settings.limits.connections, settings.limits.connections_per_address)
    quiet = {"log_config": None, "access_log": False, "server_header": False, "http": protocol_behind(door)}
    server = uvicorn.Server(uvicorn.Config(app, port=0, timeout_graceful_shutdown=1, **quiet))
    running = asyncio.create_task(server._serve())  # `serve` would take pytest's signal handlers
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    endpoint = Served(app, f"http://127.0.0.1:{port}", made[0])
    try:
        async with _session(endpoint.url, ANNA) as endpoint.session, _session(endpoint.url, BERTA) as endpoint.other:
            async with _session(endpoint.url) as endpoint.nobody:
                yield endpoint
    finally:
        server.should_exit = True
        await running


def _session(url: str, key: str | None = None) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return aiohttp.ClientSession(url, headers=headers, timeout=aiohttp.ClientTimeout(total=120))


def blob(size: int = 100, filled: int = 1) -> bytes:
    """Return a blob of bytes."""
    return encode_header("U8", (size,)) + bytes([filled]) * size


def tensor(data: bytes, size: int = 100) -> dict:
    """Return the packed value that names `blob(size)`."""
    return {"@tensor": blob_name(data), "dtype": "uint8", "shape": [size]}


def manifest(**changes: Any) -> dict:
    """Return a manifest that is admitted: loader and sampler, no cuts."""
    sampler = {"seed": 2**64 - 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "model": ["1", 0], "denoise": 1.0}
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "known.safetensors", "weight_dtype": "default"}},
        "5": {"class_type": "KSampler", "inputs": sampler},
    }
    made = {"protocol": 1, "key": "key-of-sixteen-or-more", "graph": graph, "output": ["5", 0], "cuts": []}
    return {**made, "exact": True, "preview": True, "deadline_seconds": 0, **changes}


def sampler_inputs(**inputs: Any) -> dict:
    """Return a graph whose sampler has these inputs besides its own."""
    graph = manifest()["graph"]
    graph["5"]["inputs"].update(inputs)
    return graph
