"""What the fault tests stand on: a user's ComfyUI, an endpoint with one worker, and eyes on both."""

import itertools
import json
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from raw_protocol import Raw, tiny_job

from demo.graph import SAMPLER_NODE, offloaded, painting
from demo.pictures import load
from demo.tiny_flux.words import COLOURS, PLACES, SHAPES, SIZES
from dev.endpoint import KEY, Endpoint
from dev.server import DEMO_PACK, PACK_FOLDER, ComfyServer

ANNA, FORMER = "anna-s-key-for-tests", "a-key-that-has-expired"
STALL_SECONDS = 6
BLOB_BYTES = 20_000_000  # the endpoint's store
ENDPOINT_ARGUMENTS = ["--stall-seconds", str(STALL_SECONDS), "--blob-gigabytes", str(BLOB_BYTES / 1e9)]
ENDPOINT_ARGUMENTS += ["--rate", "1e6", "--burst", "1000000"]


def write_keys(endpoint: Endpoint) -> None:
    """Give an endpoint that has not started two more keys, one of them expired."""
    file = endpoint.folder / "keys.json"
    keys = {"anna": {"key": ANNA}, "former": {"key": FORMER, "expires": "2020-01-01"}}
    file.write_text(json.dumps(keys), encoding="utf-8")
    endpoint.arguments += ["--keys", str(file)]


PRIVATE_NODE = """
class PrivateModelNode:
    CATEGORY, FUNCTION, RETURN_TYPES = "private", "run", ("MODEL",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def run(self, model):
        return (model,)


NODE_CLASS_MAPPINGS = {"PrivateModelNode": PrivateModelNode}
"""


def private_node(folder: Path) -> list[str]:
    """Write a pack with a node that no endpoint has; return the arguments with which ComfyUI loads it too."""
    (folder / "private_pack").mkdir()
    (folder / "private_pack" / "__init__.py").write_text(PRIVATE_NODE, encoding="utf-8")
    config = folder / "extra_model_paths.yaml"
    config.write_text(f"tests:\n  custom_nodes: {json.dumps(str(folder))}\n", encoding="utf-8")
    packs = [PACK_FOLDER, DEMO_PACK.name, "private_pack"]
    return ["--extra-model-paths-config", str(config), "--whitelist-custom-nodes", *packs]


@dataclass(frozen=True)
class JobRow:
    """A job as the endpoint's journal has it."""

    id: str
    state: str
    attempts: int


class Rig:
    """`client` is the user's ComfyUI; its settings know `endpoint` as `default`."""

    def __init__(self, endpoint: Endpoint, client: ComfyServer) -> None:
        self.endpoint, self.client = endpoint, client
        self._seeds = itertools.count(1000)
        self._prompts: Iterator[tuple] = itertools.product(SIZES, COLOURS, SHAPES, PLACES, COLOURS)

    # The user's side.

    def connect(self, name: str, url: str, patience_seconds: float = 30.0, key: str = KEY) -> str:
        """Write an endpoint into the private settings of the user's ComfyUI; return its name."""
        file = self.client.folder / "user" / "__velocity" / "endpoints.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        known[name] = {"url": url, "key": key, "patience_seconds": patience_seconds}
        file.write_text(json.dumps(known), encoding="utf-8")
        return name

    def seed(self) -> int:
        """Return a seed that no test has used: nothing comes from a cache."""
        return next(self._seeds)

    def graph(self, steps: int = 4) -> dict:
        """Return a graph whose prompt and seed are new: its sampler, all of it local."""
        size, colour, shape, place, ground = next(self._prompts)
        return painting(f"a {size} {colour} {shape} at the {place} on a {ground} background", self.seed(), steps=steps)

    def heavy_graph(self) -> dict:
        """Return a graph that uploads a latent of 260 kB and gets one of that size back; one step of 0.3 s."""
        graph = self.graph(steps=1)
        rough = {**graph[SAMPLER_NODE], "inputs": {**graph[SAMPLER_NODE]["inputs"], "seed": self.seed()}}
        sizes = {"width": 512, "height": 512, "upscale_method": "nearest-exact", "crop": "disabled"}
        graph["rough"] = rough
        graph["larger"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["rough", 0], **sizes}}
        graph[SAMPLER_NODE]["inputs"].update(latent_image=["larger", 0], denoise=0.5)
        return graph

    def picture(self, graph: dict) -> torch.Tensor:
        """Run a graph in the user's ComfyUI and return its picture."""
        return load(self.client.run(graph).images[0])

    def start(self, graph: dict, endpoint: str = "default", **widgets: Any) -> "Painting":
        """Start to paint a graph with Offload behind its sampler."""
        return Painting(self, graph, offloaded(graph, endpoint=endpoint, **widgets))

    # The endpoint's side.

    def submit_raw(self, steps: int) -> str:
        """Queue a job of its own at the endpoint, past the user's ComfyUI; return its id."""
        raw, (manifest, blobs) = self.raw, tiny_job(self.seed(), steps)
        answer = raw("POST", "/v1/jobs", manifest).json
        for name in answer["missing"]:
            assert raw.put(blobs[name]).status == 204
        return answer["job"]

    def finish_old_jobs(self) -> None:
        """Wait for the jobs that a restarted endpoint has taken up."""
        self.until(self.is_idle, "the old jobs are done")

    @property
    def raw(self) -> Raw:
        """A new connection to the endpoint, with the key."""
        return Raw(self.endpoint.url)

    def jobs(self) -> list[JobRow]:
        """Return all jobs, oldest first."""
        with closing(sqlite3.connect(f"file:{self.endpoint.data / 'journal.sqlite'}?mode=ro", uri=True)) as journal:
            return [JobRow(*row) for row in journal.execute("SELECT id, state, attempts FROM jobs ORDER BY number")]

    def new_job(self, known: list[JobRow]) -> JobRow:
        """Return the one job that is not in `known`."""
        ids = {job.id for job in known}
        (job,) = (job for job in self.jobs() if job.id not in ids)
        return job

    def worker(self) -> psutil.Process:
        """Return the worker's process."""
        (worker,) = psutil.Process(self.endpoint.process.pid).children()
        return worker

    def completed(self, job: str) -> int:
        """Return how often the worker that lives now has run this job to its end."""
        history = self._ask_worker("/history")
        done = [entry["prompt"][2] for entry in history.values() if entry["status"]["status_str"] == "success"]
        returned = [node["inputs"].get("job", "") for graph in done for node in graph.values()]
        return sum(str(name).startswith(job) for name in returned)

    def worker_is_idle(self) -> bool:
        """Whether the worker's own queue is empty."""
        queue = self._ask_worker("/queue")
        return not queue["queue_running"] and not queue["queue_pending"]

    def _ask_worker(self, path: str) -> dict:
        command = self.worker().cmdline()
        port = command[command.index("--port") + 1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return json.load(answer)

    def memory(self) -> int:
        """Return the bytes of memory that the endpoint's process has."""
        return psutil.Process(self.endpoint.process.pid).memory_info().rss

    def completed_before(self) -> int:
        """Return how many prompts the worker before this one has ended."""
        old = self.endpoint.data / "workers" / "0.old.log"
        return old.read_bytes().count(b"Prompt executed") if old.is_file() else 0

    def completed_so_far(self) -> int:
        """Return how many prompts the worker that lives now, or lived last, has ended."""
        return (self.endpoint.data / "workers" / "0.log").read_bytes().count(b"Prompt executed")

    def health(self) -> dict:
        """Return the endpoint's health."""
        return self.endpoint.get("/v1/health")

    def is_idle(self) -> bool:
        """Whether no job waits or runs."""
        health = self.health()
        return not health["queued"] and not health["running"]

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
        """Wait until `condition()`, which is called again and again."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{self.endpoint.log_text()[-2000:]}"
            time.sleep(0.02)

    def until_ready(self) -> None:
        """Wait for the worker."""
        self.until(lambda: any(one["state"] == "ready" for one in self.health()["workers"]), "a worker is ready")

    def until_step(self, number: int = 3) -> None:
        """Wait until the worker has taken this many steps of the job that it runs; a step takes about 20 ms."""
        self.until(lambda: self.health()["running"], "a job runs")
        time.sleep(0.02 * number)

    def assert_free(self) -> None:
        """Assert that nothing is left that waits or runs, and that the next job runs."""
        self.until(self.is_idle, "the endpoint is idle", 10)
        self.until_ready()
        end = self.raw.run(*tiny_job(self.seed()))
        assert end["state"] == "done", end


class Painting:
    """A prompt with Offload that runs in the user's ComfyUI."""

    def __init__(self, rig: Rig, graph: dict, with_offload: dict) -> None:
        self.rig, self.graph, self.log_start = rig, graph, len(rig.client.log_text())
        self.prompt_id = rig.client.submit(with_offload)

    def assert_right(self, timeout: float = 120) -> None:
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
