"""The offload protocol (docs/protocol.md) as calls, one HTTP request each."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from .settings import Endpoint

CHUNK = 1 << 16
CONNECT_SECONDS, SILENCE_SECONDS = 5.0, 20.0  # an endpoint sends a heartbeat every 5 s


class EndpointError(RuntimeError):
    """The endpoint refused or failed something. `code` is one of the protocol's, or `unreachable`."""

    def __init__(self, code: str, message: str, next_step: str = "", retry_after: float | None = None) -> None:
        super().__init__(f"{message}. {next_step}".rstrip(". ") + "." if next_step else message)
        self.code, self.retry_after = code, retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.code in ("unreachable", "unavailable", "rate_limited")


class EndpointClient:
    """A connection to one endpoint, an async context manager. Every method raises `EndpointError`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.bytes_sent = 0  # bodies only
        self.session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "EndpointClient":
        tls = ssl.create_default_context(cafile=self.endpoint.certificate) if self.endpoint.certificate else True
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=8),
            headers={"Authorization": f"Bearer {self.endpoint.key}"},
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.close()

    async def health(self) -> dict[str, Any]:
        """Return the endpoint's queue and workers."""
        return await self._json("GET", "/v1/health")

    async def capabilities(self) -> dict[str, Any]:
        """Return what the endpoint can run."""
        return await self._json("GET", "/v1/capabilities")

    async def submit(self, manifest: bytes) -> dict[str, Any]:
        """Send a manifest; the same one again finds the same job."""
        return await self._json("POST", "/v1/jobs", manifest, {"Content-Type": "application/json"})

    async def job(self, job: str) -> dict[str, Any]:
        """Return a job's state."""
        return await self._json("GET", f"/v1/jobs/{job}")

    async def put_blob(self, name: str, data: bytes, on_sent: Callable[[int], None]) -> None:
        """Send a blob; `on_sent` gets the size of each piece that has gone out."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), CHUNK):
                piece = data[start : start + CHUNK]
                yield piece
                on_sent(len(piece))

        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        async with self._request("PUT", f"/v1/blobs/{name}", data=pieces(), headers=headers) as answer:
            await _check(answer)
        self.bytes_sent += len(data)

    async def events(self, job: str, after: int) -> AsyncIterator[tuple[int, str, Any]]:
        """Yield the job's events behind the one numbered `after`: number, type, data. Ends when the connection does."""
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        async with self._request("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            await _check(answer)
            fields: dict[str, str] = {}
            async for line in _lines(answer):
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "data" in fields:
                    yield int(fields.get("id") or after), fields.get("event", "message"), _parse(fields["data"])
                    fields = {}
                else:
                    fields = {}

    async def result(self, job: str, data: bytearray, etag: str, on_received: Callable[[int], None]) -> None:
        """Append to `data` what it lacks of the job's result, whose sha256 is `etag`."""
        headers = {"Range": f"bytes={len(data)}-", "If-Range": f'"{etag}"'} if data else {}
        async with self._request("GET", f"/v1/jobs/{job}/result", headers=headers) as answer:
            await _check(answer)
            if answer.status == 200:
                data.clear()
            async for piece in answer.content.iter_chunked(CHUNK):
                data += piece
                on_received(len(piece))

    async def delete(self, job: str) -> None:
        """Cancel the job, or release the result of a finished one."""
        async with self._request("DELETE", f"/v1/jobs/{job}") as answer:
            await _check(answer)

    async def _json(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> Any:
        async with self._request(method, path, data=body, headers=headers) as answer:
            await _check(answer)
            self.bytes_sent += len(body or b"")
            return _parse(await answer.read())

    def _request(self, method: str, path: str, **options: Any) -> "_Request":
        return _Request(self.session.request(method, self.endpoint.url + path, **options), self.endpoint)


class _Request:
    """A request whose failures on the way, at any point of it, are `EndpointError`."""

    def __init__(self, request: Any, endpoint: Endpoint) -> None:
        self.request, self.endpoint = request, endpoint

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            return await self.request.__aenter__()
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        await self.request.__aexit__(kind, error, trace)
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, OSError)):
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> EndpointError:
        if isinstance(error, aiohttp.ClientSSLError):
            return EndpointError(
                "certificate",
                f"the certificate of {self.endpoint.url} is not trusted ({error})",
                "Set `certificate` in endpoints.json to the endpoint's certificate file",
            )
        cause = str(error) or type(error).__name__
        return EndpointError(
            "unreachable",
            f"the endpoint {self.endpoint.url} does not answer ({cause})",
            "Is `velocity serve` running there, and the tunnel to it open",
        )


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 400:
        return
    body = (await answer.content.read(1 << 16)).decode("utf-8", "replace")
    try:
        error = json.loads(body)["error"]
        code, message, step = error["code"], error["message"], error.get("next", "")
    except (ValueError, KeyError, TypeError):
        code = "unavailable" if answer.status >= 500 else "bad_answer"
        message, step = f"HTTP {answer.status}: {body[:200]}", "Is this address a `velocity serve`"
    retry = answer.headers.get("Retry-After", "")
    raise EndpointError(code, message, step, float(retry) if retry.replace(".", "", 1).isdigit() else None)


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Yield lines of any length; aiohttp's own reader refuses those of more than 64 KiB, as a preview may have."""
    rest = b""
    async for piece in answer.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").removesuffix("\r")


def _parse(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise EndpointError("bad_answer", f"the answer is no JSON ({error})", "Is this a `velocity serve`") from error
