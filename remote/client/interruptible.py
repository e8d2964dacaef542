"""Waiting for an endpoint while ComfyUI's Cancel keeps working."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from .errors import IS_IT_THERE, EndpointError
from .settings import Endpoint

POLL_SECONDS = 0.1
ANSWER_SECONDS = 10.0  # for what an endpoint knows without looking
T = TypeVar("T")


async def interruptible(work: Awaitable[T], seconds: float, late: Exception) -> T:
    """Return what `work` returns. Raises ComfyUI's `InterruptProcessingException`, and `late` after so many seconds;
    what was still going on is cancelled then."""
    import comfy.model_management

    task = asyncio.ensure_future(work)
    end = time.monotonic() + seconds
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_SECONDS)
            comfy.model_management.throw_exception_if_processing_interrupted()
            if time.monotonic() > end and not task.done():
                raise late
        return task.result()
    finally:
        task.cancel()


async def answered(work: Awaitable[T], endpoint: Endpoint) -> T:
    """Return what `work` asks of an endpoint that has it at hand. Raises `EndpointError` also when it says nothing."""
    message = f"the endpoint {endpoint.url} did not answer within {ANSWER_SECONDS:g} s"
    return await interruptible(work, ANSWER_SECONDS, EndpointError("unreachable", message, IS_IT_THERE))
