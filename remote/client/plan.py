"""From Offload's inputs to the nodes that ComfyUI is to run instead."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .client import EndpointClient, EndpointError
from .cut import CannotOffloadError, Link, cut_graph, is_link
from .display import show_text
from .history import History
from .node_types import NodeTypes
from .options import RAISE, Options
from .patience import Patience
from .settings import Endpoint, SettingsError, find_endpoint

log = logging.getLogger("velocity")
STARTING_SECONDS = 3.0


def private_folder() -> Path:
    """Return the folder below ComfyUI's user directory that it never serves."""
    import folder_paths

    return Path(folder_paths.get_system_user_directory("velocity"))


async def plan(
    link: Link,
    get_node: Callable[[str], dict],
    classes: dict[str, type],
    options: Options,
    builder: Any,
    shown_on: str,
) -> Link:
    """Return the link whose value is the list of the sampler's items.

    `builder` is ComfyUI's GraphBuilder, which gets the nodes; `shown_on` is the node of the user's graph that shows the
    progress, or why the sampler runs here. Raises `SettingsError` and `CannotOffloadError`, and
    `EndpointError` where the options want that.
    """
    if options.route != "local":
        try:
            return await _remote(link, get_node, classes, options, builder, shown_on)
        except CannotOffloadError as error:
            if options.route != "auto":
                raise
            reason = str(error)
        except EndpointError as error:
            if options.on_failure == RAISE:
                raise
            reason = str(error)
        log.warning("Offload: running locally: %s", reason)
        show_text(f"running locally: {reason}", shown_on)
    return [builder.node("VelocityOffloadLocal", samples=link).id, 0]


async def _remote(
    link: Link,
    get_node: Callable[[str], dict],
    classes: dict[str, type],
    options: Options,
    builder: Any,
    shown_on: str,
) -> Link:
    folder = private_folder()
    endpoint = find_endpoint(options.endpoint, folder)
    if endpoint is None:
        message = (
            "no endpoint is configured: set VELOCITY_ENDPOINT and VELOCITY_API_KEY before ComfyUI starts, or write "
            f'{folder / "endpoints.json"}: {{"default": {{"url": "http://127.0.0.1:8288", "key": "..."}}}}'
        )
        raise CannotOffloadError(message) if options.route == "auto" else SettingsError(message)
    available = await _node_classes(endpoint, folder)
    cut = cut_graph(get_node, NodeTypes(classes), link, options.text_encoding == "remote", available)
    cuts = {f"cut{number}": cut_link for number, cut_link in enumerate(cut.links)}
    links = [cut_link if is_link(cut_link) else ["that expands to the sampler", 0] for cut_link in cut.links]
    request = json.dumps({"cut": asdict(replace(cut, links=links)), "options": asdict(options)})
    node = builder.node("VelocityOffloadDispatch", request=request, samples=link, shown_on=shown_on, **cuts)
    node.set_override_display_id(shown_on)
    return [node.id, 0]


async def _node_classes(endpoint: Endpoint, folder: Path) -> list[str]:
    history = History(folder)
    capabilities = history.capabilities(endpoint.name)
    if capabilities is None:
        async with EndpointClient(endpoint) as client:
            patience = Patience(STARTING_SECONDS, lambda error: log.info("Offload: %s", error))
            capabilities = await patience.run(client.capabilities)
        history.record_capabilities(endpoint.name, capabilities)
        history.save()
    return capabilities["node_classes"]
