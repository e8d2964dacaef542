"""One job from submission to result, through cut connections, restarts of the endpoint and slow networks.

Submitting is safe to repeat, as a job is found by its key; blobs by their hash; events resume behind the last one
seen; a download goes on where it stopped. So every failure that may pass is met by trying again for `patience` seconds.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .client import EndpointClient, EndpointError
from .patience import Patience

UPLOADS_AT_ONCE, ATTEMPTS = 4, 3
FINAL = ("done", "failed", "cancelled")


@dataclass
class Transfer:
    """How one job went: bytes of the bodies and seconds, the endpoint's result record, its warnings."""

    job: str = ""
    sent: set[str] = field(default_factory=set)
    upload_bytes: int = 0
    upload_seconds: float = 0.0
    download_bytes: int = 0
    download_seconds: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class JobRun:
    """Runs one manifest. `tell(kind, data)` gets the endpoint's events, and `uploading` and `downloading` with the
    bytes so far and in all, and `reconnecting` with the error."""

    def __init__(self, client: EndpointClient, tell: Callable[[str, Any], None], patience: float = 30.0) -> None:
        self.client, self.tell = client, tell
        self.patience = Patience(patience, lambda error: tell("reconnecting", str(error)))
        self.transfer = Transfer()
        self.last_event = 0

    async def run(self, manifest: dict[str, Any], blobs: dict[str, bytes]) -> bytes:
        """Return the job's result container. Raises `EndpointError`, the endpoint's own one if the job failed there."""
        body = json.dumps(manifest, separators=(",", ":")).encode()
        for attempt in range(ATTEMPTS):
            await self._submit(body, blobs)
            try:
                return await self._finish()
            except EndpointError as error:  # released or forgotten meanwhile: it starts anew
                if error.code not in ("gone", "not_found") or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _finish(self) -> bytes:
        final, data = await self.patience.run(self._follow)
        if final == "done":
            self.transfer.result = data
            return await self._download(data)
        if final == "failed":
            raise EndpointError(data.get("code", "failed"), data.get("message", "failed"), data.get("next", ""))
        raise EndpointError("cancelled", "the job was cancelled at the endpoint")

    async def cancel(self, seconds: float = 2.0) -> None:
        """Cancel the job at the endpoint; says nothing if it can't be reached, as the job's deadline ends it then."""
        if self.transfer.job:
            try:
                await asyncio.wait_for(self.client.delete(self.transfer.job), seconds)
            except (EndpointError, asyncio.TimeoutError):
                pass

    async def _submit(self, body: bytes, blobs: dict[str, bytes]) -> None:
        """Submit until nothing is missing."""
        start = time.monotonic()
        sent_before = self.client.bytes_sent
        while True:
            answer = await self.patience.run(lambda: self.client.submit(body))
            self.transfer.job = answer["job"]
            missing = answer["missing"]
            unknown = [name for name in missing if name not in blobs]
            if unknown:
                raise EndpointError("bad_answer", f"the endpoint asks for {len(unknown)} tensors that the job lacks")
            if not missing:
                break
            await self._upload({name: blobs[name] for name in missing})
            if answer["state"] == "uploading":
                break
        self.transfer.upload_bytes = self.client.bytes_sent - sent_before
        self.transfer.upload_seconds = time.monotonic() - start

    async def _upload(self, blobs: dict[str, bytes]) -> None:
        total, sent = sum(map(len, blobs.values())), 0
        slots = asyncio.Semaphore(UPLOADS_AT_ONCE)

        def on_sent(size: int) -> None:
            nonlocal sent
            sent += size
            self.tell("uploading", (sent, total))

        async def one(name: str, data: bytes) -> None:
            async with slots:
                await self.patience.run(lambda: self.client.put_blob(name, data, on_sent))
                self.transfer.sent.add(name)

        tasks = [asyncio.create_task(one(name, data)) for name, data in blobs.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _follow(self) -> tuple[str, Any]:
        async for number, kind, data in self.client.events(self.transfer.job, self.last_event):
            self.last_event = max(number, self.last_event)
            self.patience.restart()
            if kind in FINAL:
                return kind, data
            if kind == "warning":
                self.transfer.warnings.append(str(data.get("message")))
            self.tell(kind, data)
        raise EndpointError("unreachable", "the connection to the endpoint ended", "The job goes on there")

    async def _download(self, result: dict[str, Any]) -> bytes:
        data, start = bytearray(), time.monotonic()

        def on_received(size: int) -> None:
            self.patience.restart()
            self.tell("downloading", (len(data), result["bytes"]))

        async def complete() -> None:
            await self.client.result(self.transfer.job, data, result["sha256"], on_received)
            if len(data) < result["bytes"]:
                raise EndpointError("unreachable", "the download was cut off", "It goes on where it stopped")

        await self.patience.run(complete)
        if hashlib.sha256(data).hexdigest() != result["sha256"]:
            raise EndpointError("bad_answer", "the result's bytes do not have the hash that was announced", "Run again")
        self.transfer.download_bytes, self.transfer.download_seconds = len(data), time.monotonic() - start
        return bytes(data)
