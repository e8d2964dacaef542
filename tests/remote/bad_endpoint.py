"""A server on loopback that speaks docs/protocol.md, and misbehaves on order."""

import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from velocity_nodes.remote.wire.blob import blob_name

KEY = "the-secret-key"
RESULT = bytes(range(256)) * 1200  # 307200
# What a request gets instead of the proper answer; None: the proper one after all.
Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


def done(result: bytes = RESULT, **changes: object) -> tuple[str, dict]:
    return "done", {"bytes": len(result), "sha256": hashlib.sha256(result).hexdigest(), "seconds": 0.5} | changes


@dataclass
class BadEndpoint:
    """`faults` holds for each route (submit, blob, events, result, delete, health) what the next requests get."""

    events: list[tuple[str, dict]] = field(default_factory=lambda: [("step", {"value": 1, "max": 1}), done()])
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    result: bytes = RESULT
    blobs: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)  # id by key
    capabilities: dict = field(default_factory=dict)
    requests: list[tuple[str, web.Request]] = field(default_factory=list)
    url: str = ""

    def of(self, route: str) -> list[web.Request]:
        """The requests to this route so far."""
        return [request for name, request in self.requests if name == route]

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None, receive_buffer: int = 0) -> AsyncIterator["BadEndpoint"]:
        app = web.Application(client_max_size=1 << 26)
        for method, path, route in (
            ("POST", "/v1/jobs", self.submit),
            ("PUT", "/v1/blobs/{name}", self.blob),
            ("GET", "/v1/jobs/{job}/events", self.event_stream),
            ("GET", "/v1/jobs/{job}/result", self.download),
            ("DELETE", "/v1/jobs/{job}", self.delete),
            ("GET", "/v1/health", self.health),
            ("GET", "/v1/capabilities", self.able),
        ):
            app.router.add_route(method, path, self._with_faults(route))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        listener = socket.socket()
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener, ssl_context=tls).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _with_faults(self, handler: Fault) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        name = {"event_stream": "events", "download": "result"}.get(handler.__name__, handler.__name__)

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests.append((name, request))
            if request.headers.get("Authorization") != f"Bearer {KEY}" and name != "health":
                return error(401, "unauthorized", "no key")
            waiting = self.faults.get(name)
            return (waiting and await waiting.pop(0)(request)) or await handler(request)

        return handle

    async def submit(self, request: web.Request) -> web.StreamResponse:
        manifest = await request.json()
        job = self.jobs.setdefault(manifest["key"], f"job-{len(self.jobs) + 1}")
        missing = [name for name in manifest["cuts"] if name not in self.blobs]
        return web.json_response({"job": job, "state": "uploading" if missing else "queued", "missing": missing})

    async def blob(self, request: web.Request) -> web.StreamResponse:
        data, name = await request.read(), request.match_info["name"]
        if blob_name(data) != name:
            return error(422, "bad_blob", "wrong hash")
        self.blobs[name] = data
        return web.Response(status=204)

    async def event_stream(self, request: web.Request) -> web.StreamResponse:
        return await self.send_events(request, int(request.headers["Last-Event-ID"]))

    async def send_events(self, request: web.Request, after: int, until: int | None = None) -> web.StreamResponse:
        """Send the events behind number `after`, up to number `until`, and end."""
        stream = await event_stream(request)
        for number, (kind, data) in list(enumerate(self.events, 1))[after:until]:
            await stream.write(f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        return stream

    async def download(self, request: web.Request) -> web.StreamResponse:
        start = request.http_range.start or 0
        return web.Response(status=206 if start else 200, body=self.result[start:])

    async def delete(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok", "protocol": 1, "queued": 0, "running": 0, "workers": []})

    async def able(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.capabilities)


async def event_stream(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    return stream


def error(status: int, code: str, message: str, **headers: str) -> web.Response:
    body = {"error": {"code": code, "message": message, "next": "do this"}}
    return web.json_response(body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


def answers(status: int, body: object = "", content_type: str = "application/json", **headers: str) -> Fault:
    """A fixed answer."""

    async def fault(request: web.Request) -> web.StreamResponse:
        await request.read()
        raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        return web.Response(status=status, body=raw, content_type=content_type, headers=headers)

    return fault


def refuses(status: int, code: str, **headers: str) -> Fault:
    """One of the protocol's errors."""

    async def fault(request: web.Request) -> web.StreamResponse:
        await request.read()
        return error(status, code, f"because of {code}", **headers)

    return fault


async def drops(request: web.Request) -> web.StreamResponse:
    """The connection is reset before anything is answered."""
    request.transport.abort()
    return web.Response()
