"""Who sends many wrong keys waits for each answer."""

import asyncio
import time
from collections import OrderedDict

FREE = 20  # wrong keys of an address that are answered at once; one more is free with each second
STEP_SECONDS, LONGEST_SECONDS = 0.05, 2.0  # for each one more, and at most
MOST = FREE + LONGEST_SECONDS / STEP_SECONDS  # that are counted: so long it takes to be forgiven
MAX_ADDRESSES = 1024  # that are remembered
MAX_WAITING = 64  # answers that are held back at once: more would cost the connections of others


class WrongKeys:
    """Counts them by address. A right key never waits, wherever it comes from."""

    def __init__(self) -> None:
        self._waiting = 0
        self._addresses: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> how many, when

    async def pause(self, address: str) -> None:
        """Note a wrong key, and wait for as long as its answer is to be late."""
        seconds = self.seconds(address, time.monotonic())
        if seconds and self._waiting < MAX_WAITING:
            self._waiting += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self._waiting -= 1

    def seconds(self, address: str, now: float) -> float:
        """Note a wrong key of an address at the time `now` (monotonic); return how late its answer is to be."""
        count, before = self._addresses.pop(address, (0.0, now))
        count = min(MOST, max(0.0, count - (now - before)) + 1)
        self._addresses[address] = count, now
        if len(self._addresses) > MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return max(0.0, count - FREE) * STEP_SECONDS
