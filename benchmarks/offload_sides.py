"""The two sides of the offload benchmark: a job through the endpoint, and the same prompt straight to its worker."""

import asyncio
import hashlib
import json
import re
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from velocity_nodes.remote.client.client import EndpointClient
from velocity_nodes.remote.client.run_job import JobRun
from velocity_nodes.remote.client.settings import Endpoint as Address
from velocity_nodes.remote.endpoint.workers.compose import compose
from velocity_nodes.remote.wire.worker_secret import HEADER, VARIABLE

from dev.endpoint import KEY, Endpoint
from dev.server import DEMO_PACK, TINY_MODEL

from .offload_jobs import TinyJob

CLOCK = Path(__file__).parent / "step_clock"


@dataclass
class Times:
    """When what happened to one run, in seconds of the monotonic clock. `previews` are (when, step)."""

    begin: float
    first_event: float = 0.0
    running: float = 0.0
    last_step: float = 0.0
    end: float = 0.0
    previews: list[tuple[float, int]] = field(default_factory=list)
    sha256: str = ""
    bytes_sent: int = 0
    batched: int = 1

    def note(self, kind: str, data: Any) -> None:
        """Take in an event of the endpoint."""
        now = time.monotonic()
        if not self.first_event and kind in ("queued", "cold", "running"):
            self.first_event = now
        if kind == "running":
            self.running = now
        elif kind == "step":
            self.last_step = now
        elif kind == "preview":
            self.previews.append((now, data["value"]))

    @property
    def seconds(self) -> float:
        """From the begin to the end."""
        return self.end - self.begin


class Ran(NamedTuple):
    """A prompt in the worker's history: its sampler's seed, and when it began and ended, in seconds of its clock."""

    seed: int
    begin: float
    end: float


class BenchEndpoint(Endpoint):
    """`velocity serve` whose worker also has the node StepClock."""

    def __init__(self) -> None:
        packs = ["--whitelist-custom-nodes", DEMO_PACK.name, CLOCK.name]
        super().__init__(arguments=["--allow", "StepClock"], comfyui_arguments=packs)

    def start(self) -> None:
        """Put the node's pack into the worker's folder first."""
        shutil.copytree(CLOCK, self._packs / CLOCK.name, dirs_exist_ok=True)
        super().start()

    @property
    def worker_url(self) -> str:
        """The address of its worker, which only the worker's own log tells."""
        log = (self.data / "workers" / "0.log").read_text(encoding="utf-8", errors="replace")
        return f"http://127.0.0.1:{re.search(r'http://127.0.0.1:([0-9]+)', log)[1]}"

    @property
    def worker_headers(self) -> dict[str, str]:
        """What the worker wants to see, from its process's environment."""
        worker = psutil.Process(self.process.pid).children()[0]
        return {HEADER: worker.environ()[VARIABLE]}

    def clock(self) -> list[float]:
        """Return when each model call of all watched jobs ended."""
        file = self._packs / CLOCK.name / "times.txt"
        return [float(line) for line in file.read_text(encoding="ascii").splitlines()]

    def waited(self) -> float:
        """Return the seconds that the worker's threads have waited for a core; 0 where the system does not tell."""
        worker = psutil.Process(self.process.pid).children()[0]
        files = Path(f"/proc/{worker.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text(encoding="ascii").split()[1]) for file in files) / 1e9

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that the endpoint's own process and its worker's have used."""
        own = psutil.Process(self.process.pid)
        times = {"endpoint": own.cpu_times(), "worker": own.children()[0].cpu_times()}
        return {name: spent.user + spent.system for name, spent in times.items()}

    @property
    def _packs(self) -> Path:
        return self.folder / "comfyui" / "custom_nodes"


async def offloaded(url: str, job: TinyJob) -> Times:
    """Run a job as Offload does, on a connection of its own; the clock stops when the result's bytes are there."""
    times = Times(time.monotonic())
    async with EndpointClient(Address("bench", url, KEY)) as client:
        run = JobRun(client, times.note)
        data = await run.run(job.manifest, job.blobs)
        times.end = time.monotonic()
        await run.cancel()  # releases the result
        times.bytes_sent = client.bytes_sent
    times.sha256, times.batched = hashlib.sha256(data).hexdigest(), run.transfer.result["batched"]
    return times


class Worker:
    """The endpoint's worker without the endpoint: prompts by POST, their end by websocket. A context manager."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.url, self.headers, self.client_id = url, headers, uuid.uuid4().hex
        self._runs: dict[str, tuple[Times, asyncio.Future]] = {}

    async def __aenter__(self) -> "Worker":
        self._session = aiohttp.ClientSession(headers=self.headers)
        self._socket = await self._session.ws_connect(f"{self.url}/ws?clientId={self.client_id}", max_msg_size=0)
        await self._socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._listener.cancel()
        await self._session.close()

    async def run(self, job: TinyJob) -> Times:
        """Run the prompt that the endpoint would make of the job; the clock stops when the worker says it is done."""
        prompt_id = str(uuid.uuid4())
        prompt = compose(job.manifest, f"{uuid.uuid4()}.straight", list(job.blobs), {TINY_MODEL})
        times, ended = Times(time.monotonic()), asyncio.get_running_loop().create_future()
        self._runs[prompt_id] = times, ended
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id}
        async with self._session.post(f"{self.url}/prompt", json=body) as answer:
            if answer.status != 200:
                raise RuntimeError(f"the worker refuses the prompt: {await answer.text()}")
        await ended
        return times

    async def history(self) -> list[Ran]:
        """Return every prompt with a sampler that ran here, in order."""
        async with self._session.get(f"{self.url}/history") as answer:
            entries = (await answer.json()).values()
        ran = []
        for entry in entries:
            seeds = [node["inputs"]["seed"] for node in entry["prompt"][2].values() if "seed" in node["inputs"]]
            at = {kind: data["timestamp"] / 1000 for kind, data in entry["status"]["messages"]}
            ran += [Ran(seed, at["execution_start"], at["execution_success"]) for seed in seeds]
        return sorted(ran, key=lambda run: run.begin)

    async def _listen(self) -> None:
        async for message in self._socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                self._told(told.get("type"), told.get("data") or {})

    def _told(self, kind: str, data: dict[str, Any]) -> None:
        times, ended = self._runs.get(data.get("prompt_id"), (None, None))
        if times is None:
            return
        now = time.monotonic()
        if kind == "execution_start":
            times.running = now
        elif kind == "progress":
            times.last_step = now
        elif kind == "execution_success":
            times.end = now
            ended.set_result(None)
        elif kind in ("execution_error", "execution_interrupted"):
            ended.set_exception(RuntimeError(f"the worker failed the prompt: {data.get('exception_message')}"))
