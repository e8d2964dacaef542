"""Trying again while it may help, and reading no faster than is useful."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .errors import EndpointError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Patience:
    """Repeats what fails in a way that may pass, for `seconds` from the first failure; `tell` gets the errors."""

    def __init__(self, seconds: float, tell: Callable[[EndpointError], None]) -> None:
        self.seconds, self.tell = seconds, tell
        self.restart()

    def restart(self) -> None:
        """Note a sign of life: the next failure is a first one."""
        self.end: float | None = None
        self.pause = FIRST_PAUSE

    async def run(self, action: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `action` returns. Raises its `EndpointError` once that can't pass, or patience has run out."""
        self.restart()
        while True:
            try:
                return await action()
            except EndpointError as error:
                now = time.monotonic()
                self.end = self.end or now + self.seconds
                if not error.passing or now >= self.end:
                    raise
                self.tell(error)
                await asyncio.sleep(min(error.retry_after or self.pause, self.end - now))
                self.pause = min(self.pause * 2, LONGEST_PAUSE)


class Pace:
    """Lets `most` things a second pass; who sends faster has to wait, as nothing more is read."""

    def __init__(self, most: int) -> None:
        self.most, self.count, self.end = most, 0, time.monotonic() + 1

    async def keep(self) -> None:
        """Wait for the next second if this one has had its share."""
        self.count += 1
        left = self.end - time.monotonic()
        if self.count >= self.most and left > 0:
            await asyncio.sleep(left)
        if left <= 0 or self.count >= self.most:
            self.count, self.end = 0, time.monotonic() + 1
