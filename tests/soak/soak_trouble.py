"""What goes wrong, and when: drawn from the seed, at counts of jobs that have ended."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from fault_proxy import DOWN, UP, Proxy
from soak_load import Clients
from soak_watch import Watch

WORKER, ENDPOINT, CLIENT = "the worker was killed", "the endpoint was killed", "a client was killed"
CUT, DOWN_FOR_NOW = "all connections of a client were cut", "a client's link was down"
SLOW, STAND_STILL = "a client's link became slow", "a connection was to stand still"
AGAIN = "the next worker was killed while it started"
AGAIN_CHANCE = 0.25
# How many of each, for a thousand jobs; at least one.
COUNTS = {WORKER: 16, ENDPOINT: 12, CLIENT: 40, CUT: 80, DOWN_FOR_NOW: 20, SLOW: 30, STAND_STILL: 8}
# Between the first and the last kills the server is let live, so that one process has the time to grow.
KILLS_FROM, CALM_FROM, CALM_TO, KILLS_TO = 0.03, 0.25, 0.8, 0.95
PLACES = 100  # of kills of the server, if there were no calm
REQUESTS = ((b"POST /v1/jobs ", UP), (b"PUT /v1/blobs/", UP), (b"/events HTTP/1.1", DOWN), (b"/result HTTP/1.1", DOWN))


class Deed(NamedTuple):
    """What is done once `at` jobs have ended and `delay` seconds more; `choice`, 0 to 1, is whatever it needs."""

    at: int
    what: str
    delay: float
    choice: float


def schedule(jobs: int, chance: random.Random) -> list[Deed]:
    """Return all deeds in order."""
    counts = {what: max(1, round(count * jobs / 1000)) for what, count in COUNTS.items()}
    spans = ((KILLS_FROM, CALM_FROM), (CALM_TO, KILLS_TO))
    slots = [
        at for first, last in spans for at in range(int(jobs * first) + 2, int(jobs * last), max(1, jobs // PLACES))
    ]
    kills = [WORKER] * counts.pop(WORKER) + [ENDPOINT] * counts.pop(ENDPOINT)
    chance.shuffle(kills)
    places = list(zip(chance.sample(slots, min(len(kills), len(slots))), kills, strict=False))
    for what, count in counts.items():
        places += [(chance.randrange(int(jobs * KILLS_FROM), int(jobs * KILLS_TO)), what) for _ in range(count)]
    return [Deed(at, what, chance.uniform(0, 0.5), chance.random()) for at, what in sorted(places)]


class Trouble:
    """Does the deeds, and counts them."""

    def __init__(self, deeds: Sequence[Deed], watch: Watch, clients: Clients, proxies: Sequence[Proxy]) -> None:
        self.left, self.watch, self.clients, self.proxies = list(deeds), watch, clients, proxies
        self.done: Counter[str] = Counter()

    def make(self, ended: int) -> None:
        """Do what is due when so many jobs have ended."""
        while self.left and self.left[0].at <= ended:
            deed = self.left.pop(0)
            time.sleep(deed.delay)
            self._do(deed)
            self.done[deed.what] += 1

    def _do(self, deed: Deed) -> None:
        victim = int(deed.choice * len(self.proxies))
        proxy = self.proxies[victim]
        if deed.what == WORKER:
            self.watch.kill_worker()
            if deed.choice < AGAIN_CHANCE:
                time.sleep(4 * deed.delay)
                self.done[AGAIN] += self.watch.kill_starting_worker()
        elif deed.what == ENDPOINT:
            self.watch.kill_endpoint()
            time.sleep(4 * deed.delay)
            self.watch.side.endpoint.start()
        elif deed.what == CLIENT:
            self.clients.all[victim].kill()
            time.sleep(deed.delay)
            self.clients.all[victim].start()
        elif deed.what == CUT:
            proxy.cut()
        elif deed.what == DOWN_FOR_NOW:
            proxy.refuse()
            time.sleep(3 * deed.delay)
            proxy.restore()
        elif deed.what == STAND_STILL:
            proxy.stop_at(*REQUESTS[int(deed.choice * 997) % len(REQUESTS)], int(deed.delay * 2000))
        else:
            for other in self.proxies:
                other.bytes_per_second = other.delay_seconds = 0.0
            proxy.bytes_per_second, proxy.delay_seconds = 10 ** (4.6 + deed.delay * 2), deed.delay / 10
