"""How much of what all keys have together one of them may take."""

from ..settings import Limits


class Shares:
    """A key that is alone may take everything."""

    def __init__(self, limits: Limits, keys: int) -> None:
        self.part = 1.0 if keys < 2 else min(1.0, limits.share)

    def of(self, whole: float) -> int:
        """Return one key's share of a number of places or bytes, at least 1."""
        return max(1, int(whole * self.part))

    def next_step(self, option: str) -> str:
        """Return what to do about a full share; `option` is what the operator may raise."""
        more = option if self.part == 1.0 else f"--key-share or {option}"
        return f"wait until jobs of yours have ended, run this one locally, or have the operator raise {more}"
