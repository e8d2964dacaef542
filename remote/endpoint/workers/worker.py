"""One ComfyUI process: start, log, end. `WorkerSlot` says when."""

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from ...wire.worker_secret import HEADER, HELLO, VARIABLE, is_right, proof
from ..settings import Settings
from .worker_command import worker_command, worker_environment

START_SECONDS = 300.0
TAIL_LINES = 15
MAX_LOG = 16 << 20  # bytes; there may be twice as many


class WorkerError(RuntimeError):
    """The worker did not start, or is gone; the message holds what it printed last."""


class Worker:
    """The process of worker `number`, on the GPU with the id `gpu` or without one. It ends when this process does."""

    def __init__(self, number: int, settings: Settings, gpu: str | None) -> None:
        self.number, self.settings, self.gpu = number, settings, gpu
        self.process: asyncio.subprocess.Process | None = None
        self.url = self.secret = ""

    @property
    def headers(self) -> dict[str, str]:
        """What each request to the worker carries."""
        return {HEADER: self.secret}

    @property
    def log_path(self) -> Path:
        """What the process printed; what it or the one before printed earlier is in `<number>.old.log`."""
        return self.settings.data / "workers" / f"{self.number}.log"

    async def start(self) -> dict[str, Any]:
        """Start ComfyUI and return the answer of `/velocity/worker`. Raises `WorkerError`."""
        port, self.secret = _free_port(), secrets.token_hex(32)
        self.url = f"http://127.0.0.1:{port}"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists():
            os.replace(self.log_path, self.log_path.with_suffix(".old.log"))
        with self.log_path.open("ab") as log:  # not "wb": it is emptied while the process has it open
            self.process = await asyncio.create_subprocess_exec(
                *worker_command(self.settings, port, self.gpu),
                cwd=self.settings.comfyui,
                env={**worker_environment(self.settings, self.gpu), VARIABLE: self.secret},
                stdin=subprocess.PIPE,  # closes when this process dies, and the worker watches it
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            return await asyncio.wait_for(self._wait_until_ready(), START_SECONDS)
        except asyncio.TimeoutError as error:
            raise WorkerError(f"the worker did not answer within {START_SECONDS:.0f} s:\n{self.tail()}") from error

    async def kill(self) -> None:
        """End the process at once and wait until it is gone."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def bound_log(self) -> None:
        """Begin the log anew when it is long. Not on Windows, where a process does not append to a file it is given."""
        if os.name != "posix" or not self.log_path.is_file() or self.log_path.stat().st_size <= MAX_LOG:
            return
        with suppress(OSError):  # a full disk: then without the former part
            shutil.copyfile(self.log_path, self.log_path.with_suffix(".old.log"))
        os.truncate(self.log_path, 0)

    def tail(self) -> str:
        """Return the last lines that the process printed."""
        if not self.log_path.is_file():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 8192))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    async def _wait_until_ready(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session:
            while self.process.returncode is None:
                try:
                    await self._recognise(session)
                    async with session.get(f"{self.url}/velocity/worker", headers=self.headers) as answer:
                        answer.raise_for_status()
                        return await answer.json()
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
        raise WorkerError(f"ComfyUI ended with code {self.process.returncode} while starting:\n{self.tail()}")

    async def _recognise(self, session: aiohttp.ClientSession) -> None:
        """Raise `WorkerError` unless it is our worker that answers, and no other process at its port."""
        nonce = secrets.token_hex(16)
        async with session.get(self.url + HELLO, params={"nonce": nonce}) as answer:
            if answer.status != 200:
                raise WorkerError(
                    f"ComfyUI runs without this pack's worker nodes (status {answer.status}). Update the "
                    f"ComfyUI-Velocity in its custom_nodes, or remove it there:\n{self.tail()}"
                )
            said = (await answer.content.read(1024)).decode("utf-8", "replace")
        if not is_right(proof(self.secret, nonce), said):
            raise WorkerError(f"another process answers at {self.url}, where the worker was to listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
