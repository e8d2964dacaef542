"""The offload protocol (docs/protocol.md) as calls, one HTTP request each."""

import asyncio
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from . import answers
from .errors import IS_IT_THERE, EndpointError
from .patience import Pace
from .settings import Endpoint

__all__ = ["EndpointClient", "EndpointError"]

CHUNK = 1 << 16
MAX_JSON, MAX_ERROR, MAX_LINE = 16 << 20, 1 << 16, 8 << 20  # bytes; a preview is a line
MAX_EVENT = 1 << 18  # characters of an event that is no preview
EVENTS_PER_SECOND = 1000  # what comes faster is read at this pace
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0  # an endpoint sends a heartbeat every 5 s
SLOWEST = 20_000  # bytes per second that a transfer is given time for


class EndpointClient:
    """A connection to one endpoint, an async context manager. Every method raises `EndpointError`.

    `silence` is after how many seconds without a byte a connection counts as cut, and how long a short answer may take.
    """

    def __init__(self, endpoint: Endpoint, silence: float = SILENCE_SECONDS) -> None:
        self.endpoint, self.silence = endpoint, silence
        self.bytes_sent = 0  # bodies only, as far as they went out
        self.proxy = proxy_for(endpoint.url) if endpoint.trust_env else None
        self.session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "EndpointClient":
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_trusted(self.endpoint), limit=8),
            headers={"Authorization": f"Bearer {self.endpoint.key}"},
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.close()

    async def health(self) -> dict[str, Any]:
        """Return the endpoint's queue and workers."""
        return answers.parse(await self._answer("GET", "/v1/health"), answers.Health)

    async def capabilities(self) -> dict[str, Any]:
        """Return what the endpoint can run."""
        return answers.parse(await self._answer("GET", "/v1/capabilities"), answers.Capabilities)

    async def submit(self, manifest: bytes) -> dict[str, Any]:
        """Send a manifest; the same one again finds the same job."""
        return answers.parse(await self._answer("POST", "/v1/jobs", manifest, "application/json"), answers.Submitted)

    async def put_blob(self, name: str, data: bytes, on_sent: Callable[[int], None]) -> None:
        """Send a blob; `on_sent` gets the size of each piece that has gone out."""
        await self._answer("PUT", f"/v1/blobs/{name}", data, "application/octet-stream", on_sent)

    async def events(self, job: str, after: int) -> AsyncIterator[tuple[int, str, Any]]:
        """Yield the job's events behind the one numbered `after`: number, type, data. Ends when the connection does."""
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        async with self._request("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
            fields: dict[str, str] = {}
            pace = Pace(EVENTS_PER_SECOND)
            async for line in _lines(answer):
                name, _, value = line.partition(":")
                if name in ("id", "event", "data"):
                    fields[name] = value.removeprefix(" ")
                elif not line and fields:
                    if "data" in fields:
                        yield _event(fields, after)
                        await pace.keep()
                    fields = {}

    async def result(self, job: str, data: bytearray, size: int, etag: str, on_received: Callable[[], None]) -> None:
        """Append to `data` what it lacks of the job's result of `size` bytes, whose sha256 is `etag`."""
        headers = {"Range": f"bytes={len(data)}-", "If-Range": f'"{etag}"'} if data else {}
        async with self._request("GET", f"/v1/jobs/{job}/result", headers=headers) as answer:
            if answer.status == 200:
                data.clear()
            async for piece in answer.content.iter_chunked(CHUNK):
                data += piece
                if len(data) > size:
                    raise answers.bad_answer(f"a result of more than the {size} bytes that were announced")
                on_received()

    async def delete(self, job: str) -> None:
        """Cancel the job, or release the result of a finished one."""
        await self._answer("DELETE", f"/v1/jobs/{job}")

    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "",
        on_sent: Callable[[int], None] = lambda size: None,
    ) -> bytes:
        headers = {"Content-Type": content_type, "Content-Length": str(len(body))} if body else {}
        data = self._pieces(body, on_sent) if body else None
        # The system may take the whole body at once and send it slowly: until then an answer can't come.
        silence = self.silence + len(body) / SLOWEST
        async with self._request(method, path, silence, data=data, headers=headers) as answer:
            return await asyncio.wait_for(_read(answer, MAX_JSON), self.silence)

    async def _pieces(self, body: bytes, on_sent: Callable[[int], None]) -> AsyncIterator[bytes]:
        for start in range(0, len(body), CHUNK):
            piece = body[start : start + CHUNK]
            yield piece
            self.bytes_sent += len(piece)
            on_sent(len(piece))

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, silence: float = 0.0, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a request; what goes wrong on the way, at any point of it, is an `EndpointError`."""
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=silence or self.silence)
        # A redirect would take the key and the tensors elsewhere.
        options.update(timeout=timeout, allow_redirects=False, proxy=self.proxy)
        try:
            async with self.session.request(method, self.endpoint.url + path, **options) as answer:
                if answer.status >= 300:
                    retry_after = answer.headers.get("Retry-After", "")
                    body = await asyncio.wait_for(_read(answer, MAX_ERROR), self.silence)
                    raise answers.parse_error(answer.status, body, retry_after)
                yield answer
        except aiohttp.ClientSSLError as error:
            raise _not_trusted(self.endpoint, error) from error
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise EndpointError(
                "unreachable",
                f"the endpoint {self.endpoint.url} does not answer ({str(error) or type(error).__name__})",
                IS_IT_THERE,
            ) from error


def proxy_for(url: str) -> str | None:
    """Return the proxy that the environment, or the system on Windows and macOS, names for this address.

    aiohttp's own `trust_env` would also put a password of ~/.netrc in the place of the key.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _trusted(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """Return what the endpoint's certificate is checked against; True is what the system trusts."""
    try:
        return ssl.create_default_context(cafile=endpoint.certificate) if endpoint.certificate else True
    except OSError as error:  # ssl.SSLError is one
        raise _not_trusted(endpoint, error) from error


def _not_trusted(endpoint: Endpoint, error: Exception) -> EndpointError:
    return EndpointError(
        "certificate",
        f"the certificate of {endpoint.url} can't be checked or is not trusted ({error})",
        "Set `certificate` in endpoints.json to the endpoint's certificate file",
    )


def _event(fields: dict[str, str], after: int) -> tuple[int, str, Any]:
    """Return number, type and data of an event; one without a number has that of the last one. Raises
    `EndpointError`."""
    number, kind, data = fields.get("id") or str(after), fields.get("event", "message"), fields["data"]
    if not number.isdecimal() or len(number) > 15:
        raise answers.bad_answer("an event whose id is no number")
    if kind != "preview" and len(data) > MAX_EVENT:
        raise answers.bad_answer(f"an event of {len(data)} characters")
    return int(number), kind, answers.parse_event(kind, data)


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the whole body."""
    body = b""
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > limit:
            raise answers.bad_answer(f"longer than {limit} bytes")
    return body


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """Yield lines; aiohttp's own reader refuses those of more than 64 KiB, as a preview may have."""
    rest = b""
    async for piece in answer.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").removesuffix("\r")
        if len(rest) > MAX_LINE:
            raise answers.bad_answer(f"a line of more than {MAX_LINE} bytes")
