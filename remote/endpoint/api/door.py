"""How many connections there may be, and how long one may take to say what it wants.

Uvicorn ends connections that say nothing, and not those that say a little now and then: a thousand half requests would
take all open files of this process, and with them its workers.
"""

import asyncio
from collections import Counter

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # from the connection, or the last answer, to the end of a request's head


class Door:
    """Counts the open connections, in all and by address. Those beyond `most` and `per_address` are cut."""

    def __init__(self, most: int, per_address: int) -> None:
        self.most, self.per_address = most, per_address
        self.open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Let one in, if there is room."""
        if self.open.total() >= self.most or self.open[address] >= self.per_address:
            return False
        self.open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Note that one has gone."""
        self.open[address] -= 1
        self.open += Counter()  # drops those with none


def protocol_behind(door: Door) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with this door before it."""

    class Guarded(H11Protocol):
        inside, late = False, None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.address = self.client[0] if self.client else ""
            self.inside = door.enter(self.address)
            if self.inside:
                self._expect_head()
            else:
                transport.abort()

        def data_received(self, data: bytes) -> None:
            if self.inside:
                super().data_received(data)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_head()

        def connection_lost(self, error: Exception | None) -> None:
            if self.inside:
                self.inside = False
                self.late.cancel()
                door.leave(self.address)
            super().connection_lost(error)

        def _expect_head(self) -> None:
            if self.late is not None:
                self.late.cancel()
            self.late = self.loop.call_later(HEAD_SECONDS, self._cut_if_headless)

        def _cut_if_headless(self) -> None:
            answering = self.cycle is not None and not self.cycle.response_complete
            if self.conn.their_state is h11.IDLE and not answering:
                self.transport.abort()

    return Guarded
