"""A real ComfyUI in its own process and its own temporary folder, with the pack installed as a user would have it.

    with ComfyServer() as server:
        result = server.run(prompt)

`python -m dev.server` starts one for a person.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from .client import ComfyClient
from .pack_copy import ROOT, install_pack

PACK_FOLDER = "velocity-nodes"  # under custom_nodes: the registry's name for the pack
DEMO_PACK = ROOT / "demo" / "tiny_flux"
TINY_MODEL = "tiny_flux_shapes.safetensors"
TINY_LORA = "tiny_flux_lora.safetensors"


class ComfyServer(ComfyClient):
    """A context manager around `main.py` of the ComfyUI that `COMFYUI_PATH` names; on the CPU unless
    `VELOCITY_DEVICE=cuda`. `keep` leaves the folder behind, `extra_args` go to `main.py`. With `stock` the pack is not
    installed. `environment` is added to this process's own."""

    def __init__(
        self,
        *,
        keep: bool = False,
        extra_args: Sequence[str] = (),
        start_timeout: float = 600,
        stock: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui = Path(os.environ.get("COMFYUI_PATH", "")).resolve()
        if not (self.comfyui / "main.py").is_file():
            raise RuntimeError("COMFYUI_PATH names no ComfyUI; run through `python -m nox`, which sets it")
        self.keep, self.stock = keep, stock
        self.extra_args = list(extra_args)
        self.environment = dict(environment or {})
        self.start_timeout = start_timeout
        self.process: subprocess.Popen | None = None
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", Path(tempfile.mkdtemp(prefix="velocity-comfyui-")))

    def __enter__(self) -> "ComfyServer":
        try:
            fill_folder(self.folder, pack=not self.stock)
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        """The file that holds everything the process printed."""
        return self.folder / "server.log"

    def log_text(self) -> str:
        """Return everything the process has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.is_file() else ""

    def stop(self) -> None:
        """End the process (politely, then not) and delete its folder, unless it is to be kept."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self) -> None:
        """Kill the process without warning and start it again in the same folder, on the same port."""
        self.process.kill()
        self.process.wait()
        self._start()
        self._wait_until_ready()

    def _start(self) -> None:
        command = [
            sys.executable,
            "main.py",
            "--base-directory",
            str(self.folder),
            "--database-url",
            "sqlite:///:memory:",
        ]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK_FOLDER, DEMO_PACK.name]
        if os.environ.get("VELOCITY_DEVICE", "cpu") == "cpu":
            command.append("--cpu")
        environment = {**os.environ, **self.environment, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH", None)  # a user's ComfyUI does not see this repository
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *self.extra_args], cwd=self.comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with code {self.process.returncode} while starting:\n{self._tail()}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise TimeoutError(f"ComfyUI did not answer within {self.start_timeout} s:\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-40:])


def fill_folder(folder: Path, pack: bool) -> None:
    """Make `folder` a base directory for ComfyUI: the tiny model, its pack, the workflows, and our pack if wanted."""
    names = (
        "models/diffusion_models",
        "models/loras",
        "custom_nodes",
        "input",
        "output",
        "temp",
        "user/default/workflows",
    )
    for name in names:
        (folder / name).mkdir(parents=True)
    if pack:
        install_pack(folder / "custom_nodes" / PACK_FOLDER)
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(DEMO_PACK, folder / "custom_nodes" / DEMO_PACK.name, ignore=ignore)
    shutil.copyfile(DEMO_PACK / TINY_MODEL, folder / "models" / "diffusion_models" / TINY_MODEL)
    shutil.copyfile(DEMO_PACK / TINY_LORA, folder / "models" / "loras" / TINY_LORA)
    for workflow in [*ROOT.glob("workflows/*.json"), *ROOT.glob("demo/workflows/*.json")]:
        shutil.copyfile(workflow, folder / "user" / "default" / "workflows" / workflow.name)


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    """Run a server for a person until Ctrl+C."""
    print("starting ComfyUI ...", flush=True)
    with ComfyServer(extra_args=sys.argv[1:]) as server:
        print(f"\n  {server.url}\n\nThe workflows of the pack and of the demo are in the Workflows sidebar (press w).")
        print(f"Log: {server.log_path}\nCtrl+C stops the server and deletes its folder, pictures included.", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
