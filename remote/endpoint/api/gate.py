"""Who comes in, and how often."""

import logging
import time

from ..admission.refusal import Refusal
from .keys import Keys, is_expired

log = logging.getLogger("velocity")


class Gate:
    """Knows the keys and how many requests each has left."""

    def __init__(self, keys: Keys, rate: float, burst: int) -> None:
        self.keys, self.limit, self.wrong = keys, RateLimit(rate, burst), 0

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
