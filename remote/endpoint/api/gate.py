"""Who comes in, how often, and how much at once."""

import logging
import time
from collections import Counter

from ..admission.refusal import Refusal
from ..settings import Limits
from .keys import Keys, is_expired
from .wrong_keys import WrongKeys

log = logging.getLogger("velocity")


class Gate:
    """Knows the keys, how many requests each has left, and how many of its `places` are taken."""

    def __init__(self, keys: Keys, rate: float, burst: int, places: int = Limits.connections) -> None:
        self.keys, self.limit, self.wrong, self.wrong_keys = keys, RateLimit(rate, burst), 0, WrongKeys()
        self.requests = Places(places, "requests")
        self.streams = Places(max(1, places // 2), "event streams")

    def owner(self, authorization: str) -> str:
        """Return the name of the key in an `Authorization` header. Raises `Refusal`."""
        scheme, _, presented = authorization.partition(" ")
        key = self.keys.find(presented.strip())
        if scheme.lower() != "bearer" or key is None:
            self._count_wrong()
            cause = "the key is not known here" if presented else "the request carries no key"
            raise Refusal("unauthorized", cause, "set VELOCITY_API_KEY to a key of this endpoint")
        if is_expired(key):
            message = f"the key {key.name!r} expired at {key.expires.isoformat()}"
            raise Refusal("unauthorized", message, "ask the endpoint's operator for a new one")
        seconds = self.limit.wait(key.name)
        if seconds:
            message = f"more than {self.limit.rate:g} requests per second"
            raise Refusal("rate_limited", message, "wait a moment", retry_after=int(seconds) + 1)
        return key.name

    def _count_wrong(self) -> None:
        """Tell the operator of the first request without a right key, of the tenth, the hundredth and so on."""
        self.wrong += 1
        if str(self.wrong).strip("0") == "1":
            log.warning("%d request(s) came without a key that holds here", self.wrong)


class Places:
    """How many of something a key may have under way at once."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what = most, what
        self.taken: Counter[str] = Counter()

    def enter(self, name: str) -> None:
        """Take a place. Raises `Refusal`."""
        if self.taken[name] >= self.most:
            message = f"{self.most} {self.what} of this key are under way, as many as it may have at once"
            raise Refusal("rate_limited", message, "end some of them, or wait until they end", retry_after=1)
        self.taken[name] += 1

    def leave(self, name: str) -> None:
        """Give a place back."""
        self.taken[name] -= 1


class RateLimit:
    """A token bucket for each name: `burst` requests at once, `rate` per second in the long run."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._buckets: dict[str, tuple[float, float]] = {}  # name -> tokens, when; as many as there are keys

    def wait(self, name: str, now: float | None = None) -> float:
        """Take a token and return 0.0, or return the seconds until there is one. `now` is in monotonic seconds."""
        now = time.monotonic() if now is None else now
        tokens, before = self._buckets.get(name, (float(self.burst), now))
        tokens = min(self.burst, tokens + (now - before) * self.rate)
        allowed = tokens >= 1
        self._buckets[name] = (tokens - 1 if allowed else tokens, now)
        return 0.0 if allowed else (1 - tokens) / self.rate
