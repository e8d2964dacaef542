"""A real scheduler with a real ComfyUI worker on the CPU, driven from synchronous tests."""

import asyncio
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import torch
from velocity_nodes.remote.endpoint.scheduling.scheduler import Scheduler
from velocity_nodes.remote.endpoint.settings import Settings
from velocity_nodes.remote.endpoint.store.blobs import BlobStore
from velocity_nodes.remote.endpoint.store.events import EventLog
from velocity_nodes.remote.endpoint.store.job import QUEUED, Job
from velocity_nodes.remote.endpoint.store.journal import Journal
from velocity_nodes.remote.endpoint.store.metrics import Metrics
from velocity_nodes.remote.wire.blob import blob_name
from velocity_nodes.remote.wire.container import read_container
from velocity_nodes.remote.wire.values import pack, unpack

from dev.client import ComfyClient
from dev.server import DEMO_PACK, TINY_MODEL, fill_folder

FINAL = ("done", "failed", "cancelled")


class Stack:
    """Journal, blobs, events and scheduler in a temporary folder, their event loop in a thread."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        if not (folder / "comfyui").exists():
            fill_folder(folder / "comfyui", pack=False)
        arguments = ["--base-directory", str(folder / "comfyui"), "--disable-api-nodes", "--cpu"]
        arguments += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", DEMO_PACK.name]
        options = {"comfyui_arguments": (*arguments, *settings.pop("more_arguments", ())), **settings}
        comfyui = Path(os.environ["COMFYUI_PATH"])
        self.settings = Settings(comfyui=comfyui, python=sys.executable, data=folder / "data", **options)
        self.settings.results.mkdir(parents=True, exist_ok=True)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.call(self._start())

    async def _start(self) -> None:
        self.journal = Journal(self.settings.data / "journal.sqlite")
        self.blobs = BlobStore(self.settings.data / "blobs", 1 << 30)
        self.events = EventLog()
        self.scheduler = Scheduler(self.settings, self.journal, self.blobs, self.events, Metrics())
        await self.scheduler.start()

    def stop(self) -> None:
        """End the worker and the loop."""
        self.call(self.scheduler.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def worker_client(self) -> ComfyClient:
        """Return a client of the worker's own ComfyUI."""
        return ComfyClient(self.slot.worker.url, self.settings.data, self.slot.worker.headers)

    def call(self, work: Any, timeout: float = 120) -> Any:
        """Run a coroutine on the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def call_now(self, function: Any) -> Any:
        """Call a function on the loop and return its result."""
        return self.call(_value(function))

    def until(self, condition: Any, timeout: float = 120) -> None:
        """Wait until `condition()`, evaluated on the loop, is true."""
        end = time.monotonic() + timeout
        while not self.call_now(condition):
            assert time.monotonic() < end, f"it did not happen: {self.slot.state} {self.slot.worker.tail()}"
            time.sleep(0.01)

    def until_ready(self) -> "Stack":
        """Wait for the worker."""
        self.until(lambda: self.slot.state == "ready")
        return self

    @property
    def slot(self) -> Any:
        """The first worker's."""
        return self.scheduler.slots[0]

    def store(self, data: bytes) -> str:
        """Store a blob as an upload does."""

        async def stream():
            yield data

        name = blob_name(data)
        self.call(self.blobs.receive(name, stream(), 1 << 30))
        return name

    def job(self, graph: dict, cuts: list[list], output: str = "sampler", **options: Any) -> Job:
        """Make a job and put it into the journal."""
        names: list[str] = []

        def add_blob(data: bytes) -> str:
            names.append(self.store(data))
            return names[-1]

        packed = [pack(items, add_blob) for items in cuts]
        key = uuid.uuid4().hex
        manifest = {"protocol": 1, "key": key, "graph": graph, "output": [output, 0], "cuts": packed}
        manifest |= {"exact": True, "preview": True, "deadline_seconds": 0, **options}
        job = Job(str(uuid.uuid4()), "tests", key, manifest, QUEUED, blobs=list(dict.fromkeys(names)))
        self.call_now(lambda: self.journal.create(job))
        return job

    def submit(self, job: Job) -> Job:
        """Hand a job to the scheduler."""
        self.call_now(lambda: self.scheduler.submit(job))
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a job."""
        self.call(self.scheduler.cancel(job.id))

    def follow(self, job: Job, until: tuple[str, ...] = FINAL, timeout: float = 120) -> list[tuple[str, dict]]:
        """Return the job's events up to the first of the kinds in `until`."""

        async def collect() -> list[tuple[str, dict]]:
            found = []
            async for news in self.events.follow(job.id):
                for event in news:
                    found.append((event.kind, event.data))
                    if event.kind in until or event.kind in FINAL:
                        return found
            return found

        return self.call(asyncio.wait_for(collect(), timeout))

    def wait(self, job: Job, timeout: float = 120) -> dict:
        """Return the result of a job that has to become done."""
        kind, data = self.follow(job, timeout=timeout)[-1]
        assert kind == "done", (kind, data, self.slot.worker.tail())
        return data

    def items(self, job: Job) -> list:
        """Return the items of a finished job's output."""
        data = (self.settings.results / f"{job.id}.bin").read_bytes()
        known = [(name, self.blobs.path(name).read_bytes()) for name in job.blobs]
        value, blobs = read_container(data, known)
        return unpack(value, blobs.__getitem__)


async def _value(function: Any) -> Any:
    return function()


def tiny_job(seed: int = 1, steps: int = 4, model: str = TINY_MODEL, **inputs: Any) -> tuple[dict, list[list]]:
    """Return graph and cuts of a KSampler on the tiny model, with its conditioning and latent cut."""
    from demo.tiny_flux.codecs import encode_prompt

    tokens, pooled = encode_prompt("a large red circle at the left on a blue background")
    conditioning = [[tokens, {"pooled_output": pooled}]]
    sampler = {"model": ["loader", 0], "positive": {"@cut": 0}, "negative": {"@cut": 0}, "latent_image": {"@cut": 1}}
    sampler |= {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    graph = {
        "loader": {"class_type": "UNETLoader", "inputs": {"unet_name": model, "weight_dtype": "default"}},
        "sampler": {"class_type": "KSampler", "inputs": {**sampler, "denoise": 1.0, **inputs}},
    }
    return graph, [[conditioning], [{"samples": torch.zeros(1, 16, 16, 16)}]]
