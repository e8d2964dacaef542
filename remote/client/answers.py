"""What an endpoint answers, held to what this side reads of it (docs/protocol.md): another server may be there."""

import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import EndpointError

NUMBER, TEXT_OR_NONE, DICT_OR_NONE = (int, float), (str, type(None)), (dict, type(None))
NUMBER_OR_NONE = (int, float, type(None))
SUBMITTED = {"job": str, "state": str, "missing": list}
HEALTH = {"queued": int, "running": int, "workers": list}
CAPABILITIES = {"node_classes": list, "warm": list, "seconds_per_job": NUMBER_OR_NONE}
EVENTS = {
    "queued": {"position": int, "seconds": NUMBER_OR_NONE},
    "cold": {"seconds": NUMBER_OR_NONE},
    "step": {"value": NUMBER, "max": NUMBER, "node": TEXT_OR_NONE},
    "preview": {"jpeg": str},
    "warning": {"message": str},
    "failed": {"code": str, "message": str, "next": TEXT_OR_NONE},
    "done": {
        "bytes": int,
        "sha256": str,
        "seconds": NUMBER,
        "load_seconds": NUMBER_OR_NONE,
        "fingerprint": DICT_OR_NONE,
        "models": DICT_OR_NONE,
    },
}
# What a server between here and the endpoint means by a page of its own.
BEFORE_IT = {
    407: "A proxy on the way wants a password",
    413: "A proxy on the way takes no bodies of this size: raise its limit, in nginx client_max_body_size",
    502: "A proxy on the way does not reach the endpoint: is `velocity serve` running behind it",
    504: "A proxy on the way does not wait long enough for the endpoint: raise its timeout",
}
JOB = re.compile(r"[0-9A-Za-z_-]{1,64}")  # becomes part of a file's name


def parse(body: bytes | str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object in `body`, whose `fields` are of these types. Raises `EndpointError`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise bad_answer(f"no JSON ({error})") from error
    if not isinstance(value, dict):
        raise bad_answer(f"a {type(value).__name__}, and not an object")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind):
            raise bad_answer(f"an object whose {name!r} is missing or of the wrong type")
    return value


def parse_submitted(body: bytes) -> dict[str, Any]:
    """Return the answer to a submission. Raises `EndpointError`."""
    answer = parse(body, SUBMITTED)
    if not JOB.fullmatch(answer["job"]):
        raise bad_answer("a job without a proper name")
    return answer


def parse_error(status: int, body: bytes, retry_after: str) -> EndpointError:
    """Return the error that an answer with this status tells."""
    try:
        seconds = float(retry_after) if retry_after else None
    except ValueError:  # may be a date
        seconds = None
    try:
        error = json.loads(body)["error"]
        code, message, step = str(error["code"]), str(error["message"]), str(error.get("next") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        code = "unavailable" if status >= 500 else "bad_answer"
        message = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}"
        step = BEFORE_IT.get(status, "Is this address a `velocity serve`")
    return EndpointError(code, message, step, seconds)


def bad_answer(what: str) -> EndpointError:
    """Return the error for an answer that no endpoint gives."""
    return EndpointError("bad_answer", f"the endpoint's answer is {what}", "Is this address a `velocity serve`")
