"""What an endpoint can run, also of one whose worker is still starting."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .client import EndpointClient
from .errors import EndpointError
from .history import History
from .interruptible import answered, interruptible
from .patience import Patience
from .settings import Endpoint

log = logging.getLogger("velocity")
STARTING_SECONDS = 3.0  # for an endpoint that is just being started itself
LOOK_AGAIN_SECONDS = 1.0
AT_LEAST_SECONDS, TIMES_ANNOUNCED, AT_MOST_SECONDS = 300.0, 3, 3600.0  # how long a worker that starts is waited for
DAY = 86400.0


async def node_classes(
    endpoint: Endpoint, folder: Path, wait: Callable[[], bool], tell: Callable[[str], None]
) -> list[str]:
    """Return the node classes that the endpoint runs. `folder` is the private folder.

    While its worker starts, what it said within the last day counts. If it said nothing then, `wait` is asked whether
    to wait for it, and `tell` gets a line on how long; not to wait is an error. Raises `EndpointError`, and ComfyUI's
    `InterruptProcessingException`.
    """
    history = History(folder)
    known = history.capabilities(endpoint.name)
    if known is not None:
        return known["node_classes"]
    async with EndpointClient(endpoint) as client:
        patience = Patience(STARTING_SECONDS, lambda error: log.info("Offload: %s", error))
        starting = (await answered(patience.run(client.health), endpoint)).get("starting_seconds")
        if starting is None:
            known = await answered(patience.run(client.capabilities), endpoint)
        else:
            earlier = history.capabilities(endpoint.name, DAY)
            if earlier is not None:
                return earlier["node_classes"]
            if not wait():
                raise EndpointError("cold", f"the endpoint's worker starts, which takes {starting:.0f} s more")
            known = await _wait(client, starting, tell)
    history.record_capabilities(endpoint.name, known)
    history.save()
    return known["node_classes"]


async def _wait(client: EndpointClient, announced: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return what the endpoint can run once its worker has started. Raises `EndpointError` if that takes far longer
    than was announced."""
    most = min(max(AT_LEAST_SECONDS, TIMES_ANNOUNCED * announced), AT_MOST_SECONDS)
    message = f"the endpoint's worker has not started within {most:.0f} s"
    patience = Patience(client.endpoint.patience_seconds, lambda error: tell(f"reconnecting: {error}"))

    async def look() -> dict[str, Any]:
        starting: float | None = announced
        while starting is not None:
            tell(f"cold start: the endpoint's worker starts, about {starting:.0f} s more")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            starting = (await patience.run(client.health)).get("starting_seconds")
        return await patience.run(client.capabilities)

    late = EndpointError("unavailable", message, "Its log says why; set route to local, or wait and run again")
    return await interruptible(look(), most, late)
