"""The form of a manifest, and JSON that is read with care."""

import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from .refusal import Refusal, bad_request, quoted

PROTOCOL = 1
MAX_INTEGER_DIGITS = 20  # seeds have 64 bits
MAX_VALUES = 50_000  # a large graph has some thousands

NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Node(BaseModel):
    """A node in ComfyUI's API format; a title (`_meta`) is the user's business and stays at home."""

    model_config = ConfigDict(extra="forbid", strict=True)

    class_type: Name
    inputs: dict[Name, Any]


class Manifest(BaseModel):
    """What `POST /v1/jobs` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    protocol: int
    key: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z_-]{16,64}$")]
    graph: Annotated[dict[NodeId, Node], Field(min_length=1)]
    output: Annotated[list[Any], Field(min_length=2, max_length=2)]
    cuts: list[list[Any]]
    exact: bool
    preview: bool
    deadline_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


def parse_json(body: bytes) -> Any:
    """Return the JSON value.

    Raises `Refusal` for what is no JSON, for NaN, Infinity and integers beyond 64 bits, and for so many values that
    merely looking at them would keep other clients waiting.
    """
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise Refusal("too_large", f"the body holds more than {MAX_VALUES} values", "run the job locally")
    try:
        return json.loads(body.decode("utf-8"), parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except RecursionError as error:
        raise bad_request("the body is nested too deeply") from error
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {quoted(str(error))}") from error


def check_form(manifest: Any) -> Manifest:
    """Return the manifest as an object. Raises `Refusal` for another form or another protocol version."""
    if not isinstance(manifest, dict):
        raise bad_request("a manifest is a JSON object")
    version = manifest.get("protocol")
    if type(version) is int and version != PROTOCOL:
        message = f"the client speaks protocol {version}, this endpoint {PROTOCOL}"
        raise Refusal("protocol", message, "install the same version of ComfyUI-Velocity on both sides")
    try:
        return Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"the manifest is wrong at {quoted(place)}: {first['msg']}") from error


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError("an integer of more than 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _constant(name: str) -> float:
    raise ValueError(f"{name}, which is not finite")
