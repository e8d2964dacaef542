"""One job from submission to result, through cut connections, restarts of the endpoint and slow networks.

Submitting is safe to repeat, as a job is found by its key; blobs by their hash; events resume behind the last one
seen; a download goes on where it stopped. So every failure that may pass is met by trying again for `patience` seconds.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from .answers import bad_answer
from .client import SLOWEST, EndpointClient
from .errors import EndpointError
from .patience import Patience

UPLOADS_AT_ONCE, ATTEMPTS = 4, 3
MAX_RESULT = 4 << 30  # bytes
LEAST_SECONDS = 60.0  # that a download may take, however small
MAX_WARNINGS = 20  # of one job that are shown
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
        self.submission: asyncio.Task | None = None

    async def run(self, manifest: dict[str, Any], blobs: dict[str, bytes]) -> bytes:
        """Return the job's result container. Raises `EndpointError`, the endpoint's own one if the job failed there."""
        body = json.dumps(manifest, separators=(",", ":")).encode()
        for attempt in range(ATTEMPTS):
            await self._submit(body, blobs)
            self.last_event = 0
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
            raise EndpointError(data["code"], data["message"], data.get("next") or "")
        raise EndpointError("cancelled", "the job was cancelled at the endpoint")

    async def cancel(self, seconds: float = 2.0) -> None:
        """Cancel the job at the endpoint; says nothing if it can't be reached, as the job's deadline ends it then."""
        try:
            await asyncio.wait_for(self._cancel(), seconds)
        except (EndpointError, asyncio.TimeoutError):
            pass

    async def _cancel(self) -> None:
        # It may have been accepted already, under a name that is still on its way.
        if self.submission and not self.transfer.job:
            self.transfer.job = (await self.submission)["job"]
        if self.transfer.job:
            await self.client.delete(self.transfer.job)

    async def _submit(self, body: bytes, blobs: dict[str, bytes]) -> None:
        start, sent_before = time.monotonic(), self.client.bytes_sent
        answer = await self.patience.run(lambda: self._send(body))
        self.transfer.job, missing = answer["job"], answer["missing"]
        if not blobs.keys() >= set(missing):
            raise bad_answer("a wish for tensors that the job lacks")
        await self._upload({name: blobs[name] for name in missing})
        self.transfer.upload_bytes += self.client.bytes_sent - sent_before
        self.transfer.upload_seconds += time.monotonic() - start

    async def _send(self, body: bytes) -> dict[str, Any]:
        self.submission = asyncio.create_task(self.client.submit(body))
        return await asyncio.shield(self.submission)

    async def _upload(self, blobs: dict[str, bytes]) -> None:
        total, sent = sum(map(len, blobs.values())), dict.fromkeys(blobs, 0)
        slots = asyncio.Semaphore(UPLOADS_AT_ONCE)

        async def put(name: str) -> None:
            def on_sent(size: int) -> None:
                sent[name] += size
                self.tell("uploading", (sum(sent.values()), total))

            sent[name] = 0
            await self.client.put_blob(name, blobs[name], on_sent)

        async def one(name: str) -> None:
            async with slots:
                await self.patience.run(lambda: put(name))
                self.transfer.sent.add(name)

        tasks = [asyncio.create_task(one(name)) for name in blobs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _follow(self) -> tuple[str, Any]:
        async with aclosing(self.client.events(self.transfer.job, self.last_event)) as events:
            async for number, kind, data in events:
                self.last_event = number  # a restarted endpoint counts anew
                self.patience.restart()
                if kind in FINAL:
                    return kind, data
                if kind == "warning":
                    if len(self.transfer.warnings) == MAX_WARNINGS:
                        continue
                    self.transfer.warnings.append(data["message"])
                self.tell(kind, data)
        raise EndpointError("unreachable", "the connection to the endpoint ended", "The job goes on there")

    async def _download(self, result: dict[str, Any]) -> bytes:
        data, start, size, most = bytearray(), time.monotonic(), result["bytes"], 0
        if size > MAX_RESULT:
            raise bad_answer(f"a result of {size} bytes")

        def on_received() -> None:
            nonlocal most
            if len(data) > most:  # an endpoint that begins anew each time makes no progress
                most = len(data)
                self.patience.restart()
            self.tell("downloading", (len(data), size))

        async def complete() -> None:
            if size and len(data) == size:  # cut off just at its end
                return
            await self.client.result(self.transfer.job, data, size, result["sha256"], on_received)
            if len(data) < size:
                raise EndpointError("unreachable", "the download was cut off", "It goes on where it stopped")

        try:
            await asyncio.wait_for(self.patience.run(complete), LEAST_SECONDS + self.patience.seconds + size / SLOWEST)
        except asyncio.TimeoutError:
            raise EndpointError("unreachable", f"the result comes with less than {SLOWEST} bytes per second") from None
        if hashlib.sha256(data).hexdigest() != result["sha256"]:
            raise EndpointError("bad_answer", "the result's bytes do not have the hash that was announced", "Run again")
        self.transfer.download_bytes, self.transfer.download_seconds = size, time.monotonic() - start
        return bytes(data)
