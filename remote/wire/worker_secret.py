"""The secret between an endpoint and its worker, new for each start: other accounts of the machine can reach the port.

The worker shows that it knows the secret before it is told anything: somebody else may have taken its port first. Then
each request to it carries the secret.
"""

import hashlib
import hmac

HEADER = "X-Velocity-Worker"
VARIABLE = "VELOCITY_WORKER_SECRET"  # in the worker's environment
HELLO = "/velocity/hello"


def proof(secret: str, nonce: str) -> str:
    """Return what only who knows the secret can answer to `nonce`."""
    return hmac.new(secret.encode(), nonce.encode(), hashlib.sha256).hexdigest()


def is_right(expected: str, given: str) -> bool:
    """Whether two texts are equal, in a time that tells nothing about them."""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace"))
