"""What an endpoint answers, held to what this side reads of it (docs/protocol.md): another server may be there, or one
that means harm. So everything has a type and bounds, and what is not known here is left out."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from .errors import EndpointError

# What a server between here and the endpoint means by a page of its own.
BEFORE_IT = {
    407: "A proxy on the way wants a password",
    413: "A proxy on the way takes no bodies of this size: raise its limit, in nginx client_max_body_size",
    502: "A proxy on the way does not reach the endpoint: is `velocity serve` running behind it",
    504: "A proxy on the way does not wait long enough for the endpoint: raise its timeout",
}
Count = Annotated[int, Field(ge=0, le=10**15)]
Number = Annotated[int | float, Field(ge=0, le=10**9)]
Seconds = Annotated[float, Field(ge=0, le=10**8)]
Name = Annotated[str, StringConstraints(max_length=1024)]
Words = Annotated[str, StringConstraints(max_length=1 << 16)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
JobName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{1,64}$")]  # becomes part of a file's name


class Answer(BaseModel):
    """An answer of which nothing is read."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Submitted(Answer):
    """Of a submission."""

    job: JobName
    state: Name
    missing: Annotated[list[Sha256], Field(max_length=100_000)]


class Worker(Answer):
    """In the answer about health."""

    state: Name


class Health(Answer):
    """Of `GET /v1/health`."""

    queued: Count
    running: Count
    workers: Annotated[list[Worker], Field(max_length=10_000)]
    starting_seconds: Seconds | None = None


class Capabilities(Answer):
    """Of `GET /v1/capabilities`."""

    node_classes: Annotated[list[Name], Field(max_length=100_000)]
    warm: Annotated[list[Name], Field(max_length=10_000)]
    seconds_per_job: Seconds | None = None


class Queued(Answer):
    """An event."""

    position: Count
    seconds: Seconds | None = None


class Cold(Answer):
    """An event."""

    seconds: Seconds | None = None


class Step(Answer):
    """An event."""

    value: Number
    max: Number
    node: Name | None = None


class Preview(Answer):
    """An event."""

    jpeg: str
    value: Number | None = None


class Warned(Answer):
    """An event."""

    message: Words


class Failed(Answer):
    """An event, and what is below `error` in an answer with an error."""

    code: Annotated[str, StringConstraints(max_length=64)]
    message: Words
    next: Words | None = None


class Done(Answer):
    """An event."""

    bytes: Count
    sha256: Sha256
    seconds: Seconds
    load_seconds: Seconds | None = None
    batched: Count | None = None
    fingerprint: dict[Name, JsonValue] | None = None
    models: dict[Name, Name | None] | None = None


class Refused(Answer):
    """An answer with an error."""

    error: Failed


EVENTS: dict[str, type[Answer]] = {
    "queued": Queued,
    "cold": Cold,
    "step": Step,
    "preview": Preview,
    "warning": Warned,
    "failed": Failed,
    "done": Done,
}


def parse(body: bytes | str, model: type[Answer]) -> dict[str, Any]:
    """Return what the JSON object in `body` has of the model's fields. Raises `EndpointError`."""
    try:
        return model.model_validate_json(body).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step)[:40] for step in first["loc"][:4])
        raise bad_answer(f"{place or 'the whole'}: {first['msg']}") from None


def parse_event(kind: str, data: str) -> dict[str, Any]:
    """Return the data of an event; nothing of one that is not known here. Raises `EndpointError`."""
    return parse(data, EVENTS.get(kind, Answer))


def parse_error(status: int, body: bytes, retry_after: str) -> EndpointError:
    """Return the error that an answer with this status tells."""
    try:
        error = parse(body, Refused)["error"]
        code, message, step = error["code"], error["message"], error.get("next") or ""
    except EndpointError:
        code = "unavailable" if status >= 500 else "bad_answer"
        message = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
        step = BEFORE_IT.get(status, "Is this address a `velocity serve`")
    return EndpointError(code, message, step, _seconds(retry_after))


def bad_answer(what: str) -> EndpointError:
    """Return the error for an answer that no endpoint gives."""
    return EndpointError("bad_answer", f"the endpoint's answer is wrong ({what})", "Is this address a `velocity serve`")


def _seconds(retry_after: str) -> float | None:
    try:
        seconds = float(retry_after)
    except ValueError:  # nothing, or a date
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
