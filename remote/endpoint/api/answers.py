"""Answers in the protocol's error form, whatever went wrong."""

import asyncio

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..admission.refusal import STATUS, Refusal, quoted
from ..store.journal import JournalError
from ..store.metrics import Metrics
from .bodies import BODY_READ

LINGER_SECONDS = 2.0


def add_error_answers(app: FastAPI, metrics: Metrics) -> None:
    """Have the app answer every exception of a handler in the protocol's form."""

    async def refuse(request: Request, refusal: Refusal) -> Response:
        metrics.refusals.labels(refusal.code).inc()
        headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
        if refusal.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        return ErrorAnswer({"error": refusal.error()}, STATUS[refusal.code], headers)

    async def refuse_to_promise(request: Request, error: JournalError) -> Response:
        return await refuse(request, Refusal("disk_full", str(error), "free disk space there, or run the job locally"))

    app.add_exception_handler(Refusal, refuse)
    app.add_exception_handler(JournalError, refuse_to_promise)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(Exception, _internal)


async def _framework(request: Request, error: HTTPException) -> Response:
    """Answer the framework's own errors, such as an unknown path."""
    code = "not_found" if error.status_code == 404 else "bad_request"
    body = {"code": code, "message": f"{request.method} {quoted(request.url.path)}: {error.detail}"}
    body["next"] = "the routes are those of docs/protocol.md; is the client another version?"
    return ErrorAnswer({"error": body}, error.status_code, error.headers)


async def _disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _internal(request: Request, error: Exception) -> Response:
    """Answer what should not have happened; the server logs its traceback."""
    body = {"code": "internal", "message": "the endpoint failed; its log says why", "next": "run the job locally"}
    return ErrorAnswer({"error": body}, 500)


class ErrorAnswer(JSONResponse):
    """An answer that ends the connection if it comes before the end of the body, without resetting it at once.

    A reset would take the answer from a client that is still sending. So the answer goes out, and for a moment what
    still comes is read and thrown away.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer (ASGI)."""
        if scope.get(BODY_READ, True):
            await super().__call__(scope, receive, send)
            return
        self.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            await asyncio.wait_for(_drain(receive), LINGER_SECONDS)
        except asyncio.TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return
