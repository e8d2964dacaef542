"""A real `velocity serve` in its own process with its own data folder, in front of a ComfyUI with the tiny model.

with Endpoint() as endpoint, ComfyServer() as client:
    endpoint.connect(client)
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from .pack_copy import install_pack
from .server import DEMO_PACK, TINY_MODEL, ComfyServer, fill_folder, free_port

KEY = "a-key-for-tests-only"
ONLY_THERE = "only_there.safetensors"  # the tiny model by a name that no client has
# What the tiny model needs for `text_encoding: remote`.
ALLOWED = ("TinyFluxTextEncode",)


class Endpoint:
    """A context manager around `python -m velocity_nodes.remote.endpoint serve`; its worker is on the CPU unless
    `VELOCITY_DEVICE=cuda`. `arguments` go to `velocity serve`, `comfyui_arguments` to the worker."""

    def __init__(
        self, *, arguments: Sequence[str] = (), comfyui_arguments: Sequence[str] = (), start_timeout: float = 600
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="velocity-endpoint-"))
        self.arguments, self.comfyui_arguments = list(arguments), list(comfyui_arguments)
        self.start_timeout = start_timeout
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Endpoint":
        try:
            install_pack(self.folder / "python" / "velocity_nodes")
            fill_folder(self.folder / "comfyui", pack=False)
            models = self.folder / "comfyui" / "models" / "diffusion_models"
            shutil.copyfile(models / TINY_MODEL, models / ONLY_THERE)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def client_environment(self) -> dict[str, str]:
        """What a ComfyUI needs in its environment to use this endpoint as `default`."""
        return {"VELOCITY_ENDPOINT": self.url, "VELOCITY_API_KEY": KEY}

    def connect(self, client: ComfyServer, name: str = "default", **settings: object) -> None:
        """Write this endpoint into the private settings of a running ComfyUI."""
        file = client.folder / "user" / "__velocity" / "endpoints.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        file.parent.mkdir(parents=True, exist_ok=True)
        known[name] = {"url": self.url, "key": KEY, **settings}
        file.write_text(json.dumps(known), encoding="utf-8")

    @property
    def data(self) -> Path:
        """The data folder of the endpoint."""
        return self.folder / "data"

    def start(self) -> None:
        """Start the process (again) and wait until a worker is ready."""
        command = [
            sys.executable,
            "-m",
            "velocity_nodes.remote.endpoint",
            "serve",
            "--comfyui",
            os.environ["COMFYUI_PATH"],
        ]
        command += ["--port", str(self.port), "--data", str(self.data), *self.arguments]
        for name in ALLOWED:
            command += ["--allow", name]
        command += ["--", "--base-directory", str(self.folder / "comfyui"), "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", DEMO_PACK.name]
        if os.environ.get("VELOCITY_DEVICE", "cpu") == "cpu":
            command.append("--cpu")
        environment = {**os.environ, "VELOCITY_API_KEY": KEY, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        environment["PYTHONPATH"] = str(self.folder / "python")
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.comfyui_arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """End the process, politely and then not."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    @property
    def log_path(self) -> Path:
        """The file that holds everything the endpoint printed; its workers' are in data/workers."""
        return self.folder / "endpoint.log"

    def log_text(self) -> str:
        """Return everything the endpoint has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.is_file() else ""

    def get(self, path: str) -> dict:
        """Return the JSON answer of a GET with the key. Raises `urllib.error.URLError`."""
        return json.loads(self._read(path))

    def metric(self, name: str) -> int:
        """Return one of the counters of `GET /metrics`, 0 if it has not counted yet."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self._read("/metrics"), re.MULTILINE)
        return int(float(found[1])) if found else 0

    def _read(self, path: str) -> str:
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.read().decode()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.start_timeout
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the endpoint ended with code {self.process.returncode}:\n{self.log_text()[-3000:]}"
                )
            try:
                states = {worker["state"] for worker in self.get("/v1/health")["workers"]}
                if states & {"ready", "busy"}:  # with jobs from before, it is busy at once
                    return
                if states == {"failed"}:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        logs = "".join(log.read_text(errors="replace")[-3000:] for log in self.data.glob("workers/*.log"))
        raise RuntimeError(f"no worker after at most {self.start_timeout} s:\n{self.log_text()[-3000:]}\n{logs}")
