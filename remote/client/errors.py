"""What an endpoint can answer instead of what was asked for."""

from .said import harmless

IS_IT_THERE = "Is `velocity serve` running there, and the tunnel to it open"


class EndpointError(RuntimeError):
    """The endpoint refused or failed something. `code` is one of the protocol's, or `unreachable`, `bad_answer`
    (this is no `velocity serve`), `certificate`, `deadline`, `cold` (it starts, and was not to be waited for)."""

    def __init__(self, code: str, message: str, next_step: str = "", retry_after: float | None = None) -> None:
        message, next_step = harmless(message), harmless(next_step)
        super().__init__(f"{message}. {next_step}".rstrip(". ") + "." if next_step else message)
        self.code, self.retry_after = code, retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.code in ("unreachable", "unavailable", "rate_limited")
