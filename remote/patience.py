"""Trying again while it may help."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .client import EndpointError

LONGEST_PAUSE = 5.0


class Patience:
    """Repeats what fails in a way that may pass, for `seconds` since the last sign of life; `tell` gets the errors."""

    def __init__(self, seconds: float, tell: Callable[[EndpointError], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self.restart()

    def restart(self) -> None:
        """Note a sign of life."""
        self.end, self.pause = time.monotonic() + self.seconds, 0.1

    async def run(self, action: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `action` returns. Raises its `EndpointError` once that can't pass, or patience has run out."""
        self.restart()
        while True:
            try:
                return await action()
            except EndpointError as error:
                left = self.end - time.monotonic()
                if not error.passing or left <= 0:
                    raise
                self.tell(error)
                await asyncio.sleep(min(error.retry_after or self.pause, left))
                self.pause = min(self.pause * 2, LONGEST_PAUSE)
