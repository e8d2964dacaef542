"""What each route of docs/protocol.md does; errors are raised as `Refusal`."""

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from fastapi import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ...wire.blob import BlobError, is_blob_name
from ..admission.manifest import PROTOCOL, parse_json
from ..admission.refusal import Refusal, bad_request, quoted, too_large
from ..scheduling.intake import Intake
from ..store.arrival import BlobTooLargeError
from ..store.blobs import DiskFullError
from ..store.events import Event
from ..store.job import CANCELLED, DONE, FAILED, RELEASED, Job
from ..store.metrics import CONTENT_TYPE
from .bodies import AT_END, pieces, read_body
from .gate import Gate, Places

HEARTBEAT_SECONDS = 5.0


class Routes:
    """The handlers, with what they work on."""

    def __init__(self, gate: Gate, intake: Intake) -> None:
        self.gate, self.intake = gate, intake
        self.settings, self.journal, self.events = intake.settings, intake.journal, intake.events
        self.scheduler, self.metrics = intake.scheduler, intake.metrics

    async def authorize(self, request: Request) -> None:
        """Set `request.state.owner`, and count the request as one under way. Raises `Refusal`, late for an address
        that tries many keys."""
        address = request.client.host if request.client else ""
        try:
            owner = self.gate.owner(request.headers.get("authorization", ""))
        except Refusal as refusal:
            if refusal.code == "unauthorized":
                await self.gate.wrong_keys.pause(address)
            raise
        self._enter(request, self.gate.requests, owner)
        request.state.owner = owner

    def _enter(self, request: Request, places: Places, owner: str) -> None:
        """Count the request until it has ended. Raises `Refusal` where the key has too many."""
        places.enter(owner)
        request.scope[AT_END].append(partial(places.leave, owner))

    async def health(self) -> Response:
        """GET /v1/health."""
        health = self.scheduler.health()
        workers = [{"state": worker["state"]} for worker in health["workers"]]
        status = "stopping" if self.intake.stopping else "ok"
        counts = {name: health[name] for name in ("queued", "running", "starting_seconds")}
        return JSONResponse({"status": status, "protocol": PROTOCOL, **counts, "workers": workers})

    async def capabilities(self) -> Response:
        """GET /v1/capabilities."""
        capabilities = self.scheduler.capabilities()
        if capabilities is None:
            raise Refusal("unavailable", "no worker has started yet", "try again in a few seconds", retry_after=2)
        return JSONResponse(capabilities)

    async def submit(self, request: Request) -> Response:
        """POST /v1/jobs."""
        manifest = parse_json(await read_body(request, self.settings.limits.body_bytes))
        job, missing = self.intake.submit(request.state.owner, manifest)
        return JSONResponse({"job": job.id, "state": job.state, "missing": missing})

    async def job(self, request: Request, job_id: str) -> Response:
        """GET /v1/jobs/{id}."""
        job = self._job(request, job_id)
        return JSONResponse({"job": job.id, "state": job.state, "error": job.error, "result": job.result})

    async def delete(self, request: Request, job_id: str) -> Response:
        """DELETE /v1/jobs/{id}."""
        await self.intake.delete(self._job(request, job_id))
        return Response(status_code=204)

    async def put_blob(self, request: Request, name: str) -> Response:
        """PUT /v1/blobs/{name}."""
        limit = self.settings.limits.blob_bytes
        if not is_blob_name(name):
            raise bad_request("a blob's name is 64 hexadecimal digits")
        announced = request.headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            raise too_large(f"the blob is announced with {announced[:20]} bytes, and {limit} are allowed", "blob_bytes")
        try:
            await self.intake.uploads.receive(request.state.owner, name, pieces(request), limit)
        except BlobTooLargeError as error:
            raise too_large(str(error), "blob_bytes") from error
        except BlobError as error:
            raise Refusal("bad_blob", str(error), "send it again; if that fails too, run the job locally") from error
        except DiskFullError as error:
            message = f"the endpoint cannot keep the blob: {error.strerror}"
            raise Refusal("disk_full", message, "free disk space there, or raise --blob-gigabytes") from error
        self.intake.blob_arrived(request.state.owner, name)
        return Response(status_code=204)

    async def head_blob(self, request: Request, name: str) -> Response:
        """HEAD /v1/blobs/{name}."""
        found = is_blob_name(name) and self.intake.uploads.has(request.state.owner, name)
        return Response(status_code=200 if found else 404)

    async def events_of(self, request: Request, job_id: str) -> Response:
        """GET /v1/jobs/{id}/events."""
        job = self._job(request, job_id)
        if job.state == RELEASED:
            raise _gone()
        self._enter(request, self.gate.streams, job.owner)
        if not self.events.has(job.id):
            self._restore(job)
        last = request.headers.get("last-event-id", "0")
        after = int(last) if last.isdecimal() and len(last) < 16 else 0
        stream = self.events.follow(job.id, after, HEARTBEAT_SECONDS)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_server_sent(stream), media_type="text/event-stream", headers=headers)

    def _restore(self, job: Job) -> None:
        """Make the log of a job again that finished before the endpoint was restarted."""
        if job.state == DONE:
            self.events.emit(job.id, "done", job.result)
        elif job.state == FAILED:
            self.events.emit(job.id, "failed", job.error)
        elif job.state == CANCELLED:
            self.events.emit(job.id, "cancelled", {})

    async def result(self, request: Request, job_id: str) -> Response:
        """GET /v1/jobs/{id}/result."""
        job = self._job(request, job_id)
        if job.state == RELEASED or (job.state == DONE and not self.intake.results.is_there(job.id)):
            raise _gone()
        if job.state != DONE:
            raise Refusal("not_found", f"the job is {job.state} and has no result", "follow its events until `done`")
        headers = {"ETag": f'"{job.result["sha256"]}"', "Cache-Control": "no-store"}
        return ResultFile(self.intake.results.path(job.id), headers=headers, media_type="application/octet-stream")

    async def metrics_text(self) -> Response:
        """GET /metrics."""
        text = self.metrics.text(self.journal.count(), self.scheduler.health())
        return Response(text, media_type=CONTENT_TYPE)

    def _job(self, request: Request, job_id: str) -> Job:
        job = self.journal.get(job_id)
        if job is None or job.owner != request.state.owner:
            raise Refusal("not_found", f"there is no job {quoted(job_id)} of this key", "submit it again")
        return job


class ResultFile(FileResponse):
    """A result, which another request may release at any moment, also after this one has found it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file (ASGI); `Refusal` if it is gone by now."""
        try:
            await super().__call__(scope, receive, send)
        except (RuntimeError, FileNotFoundError) as error:
            if Path(self.path).is_file():
                raise
            raise _gone() from error


def _gone() -> Refusal:
    return Refusal("gone", "the job's result was released or has expired", "submit the job again")


async def _server_sent(stream: AsyncIterator[list[Event]]) -> AsyncIterator[str]:
    """What there is together is one piece: each goes out on its own, and costs much more than its bytes."""
    comment = ": here\n\n"
    async for news in stream:
        lines = (f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n" for event in news)
        yield comment + "".join(lines) or ": still here\n\n"
        comment = ""
