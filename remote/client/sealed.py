"""What a node of the pack hands to those that it puts into the graph, sealed: a workflow from elsewhere may hold these
nodes, too, with words of its own about what is sent and what was measured."""

import functools
import hashlib
import hmac
import json
import secrets
from typing import Any


class NotSealedError(ValueError):
    """This was not written by this ComfyUI since it started."""


def seal(value: Any) -> str:
    """Return a JSON value as a text that `unseal` knows to be from this process. The same value gives the same text, so
    that ComfyUI's cache knows it again."""
    text = json.dumps(value)
    return _proof(text) + text


def unseal(text: str) -> Any:
    """Return the sealed value. Raises `NotSealedError`."""
    proof, text = text[:64], text[64:]
    if not hmac.compare_digest(proof.encode(), _proof(text).encode()):
        raise NotSealedError(
            "this node is a part of Offload, which puts it into the graph itself, and does nothing by hand or out of "
            "a workflow file: remove it, and place Offload behind the sampler"
        )
    return json.loads(text)


def _proof(text: str) -> str:
    return hmac.new(_secret(), text.encode(), hashlib.sha256).hexdigest()


@functools.cache
def _secret() -> bytes:
    return secrets.token_bytes(32)
