"""Request bodies, read piece by piece and never beyond their limit."""

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..admission.refusal import bad_request, too_large

SILENCE_SECONDS = 60.0  # between two pieces of a body
SLOWEST = 5_000  # bytes per second that a body comes with, on average and after the first minute
BODY_READ = "velocity.body_read"  # in an ASGI scope, set by `Traffic`
AT_END = "velocity.at_end"  # likewise: a list of what is to be called once the answer is out or the client gone
_GZIP = 31  # zlib's window bits for a gzip header


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises `Refusal` when nothing comes for a minute, or drop by drop, and
    `ClientDisconnect` at its end."""
    stream, end = request.stream().__aiter__(), time.monotonic() + SILENCE_SECONDS
    while True:
        try:
            piece = await asyncio.wait_for(stream.__anext__(), SILENCE_SECONDS)
            end += len(piece) / SLOWEST
            if time.monotonic() > end:
                raise bad_request(f"the body comes with less than {SLOWEST} bytes per second")
            yield piece
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError as error:
            raise bad_request(f"nothing of the body came for {SILENCE_SECONDS:.0f} s") from error


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, unpacked if it is gzip. Raises `Refusal` beyond `limit` bytes, packed or not."""
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise bad_request("the body's Content-Encoding is neither gzip nor none")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_large(f"the body is announced with {announced[:20]} bytes, and {limit} are allowed", "body_bytes")
    unpacker = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
    body = bytearray()
    try:
        async for piece in pieces(request):
            body += unpacker.decompress(piece, limit + 1 - len(body)) if unpacker else piece
            if len(body) > limit:
                raise too_large(f"the body has more than {limit} bytes", "body_bytes")
    except zlib.error as error:
        raise bad_request(f"the body is not gzip: {error}") from error
    if unpacker and (not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail):
        raise bad_request("the gzip body is cut off, or something follows it")
    return bytes(body)


class Traffic:
    """ASGI middleware: counts the bytes of bodies, notes in the scope whether the request's has been read, and calls
    what the scope says at the end."""

    def __init__(self, app: ASGIApp, count: Callable[[int, int], None]) -> None:
        self.app, self.count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on (ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        names = {name for name, value in scope["headers"] if value != b"0"}
        scope[BODY_READ] = not names & {b"content-length", b"transfer-encoding"}

        async def counted_receive() -> Message:
            message = await receive()
            self.count(len(message.get("body", b"")), 0)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                scope[BODY_READ] = True
            return message

        async def counted_send(message: Message) -> None:
            self.count(0, len(message.get("body", b"")))
            await send(message)

        scope[AT_END] = []
        try:
            await self.app(scope, counted_receive, counted_send)
        finally:
            for call in scope[AT_END]:
                call()
