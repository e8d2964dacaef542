"""The error form of docs/protocol.md: a code, the cause, and what to do next."""

from typing import Any

from ...wire.short_text import shortened

STATUS = {
    "unauthorized": 401,
    "bad_request": 400,
    "protocol": 400,
    "too_large": 413,
    "unsupported_node": 422,
    "missing_model": 422,
    "bad_blob": 422,
    "conflict": 409,
    "queue_full": 429,
    "rate_limited": 429,
    "not_found": 404,
    "gone": 410,
    "disk_full": 507,
    "unavailable": 503,
    "internal": 500,
}
LONGEST, LONGEST_NAME, MOST_NAMES = 2000, 200, 20  # characters of a message and of a name in a list, names


class Refusal(Exception):
    """A request or a job that is refused. `retry_after` are seconds, `details` more fields of the error object."""

    def __init__(
        self, code: str, message: str, next: str, retry_after: int | None = None, **details: list[str]
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.next = code, message, next
        self.retry_after, self.details = retry_after, details

    def error(self) -> dict[str, Any]:
        """Return the error object, as events, jobs and answers carry it."""
        return error_of(self.code, self.message, self.next, **self.details)


def error_of(code: str, message: str, next: str, **details: list[str]) -> dict[str, Any]:
    """Return an error object; what a client or a worker said in it is cut to a length that may be kept and logged."""
    names = {key: [shortened(name, LONGEST_NAME) for name in value[:MOST_NAMES]] for key, value in details.items()}
    return {"code": code, "message": shortened(message, LONGEST), "next": shortened(next, LONGEST), **names}


def quoted(value: object, length: int = 80) -> str:
    """Return what a client sent so that it may stand in a message: printable ASCII, not too long."""
    text = ascii(value[:length] if isinstance(value, str) else value)
    return text if len(text) <= 4 * length else text[: 4 * length] + "..."


def bad_request(message: str) -> Refusal:
    """Return the refusal of a request that is not of the protocol's form."""
    return Refusal("bad_request", message, "send what docs/protocol.md describes; is the client another version?")


def too_large(message: str, limit: str) -> Refusal:
    """Return the refusal of what is above a limit; `limit` is the name of the one that was met."""
    return Refusal(
        "too_large", message, f"make it smaller, run it locally, or raise the endpoint's limit --max-{limit}"
    )
