"""From Offload's inputs to the nodes that ComfyUI is to run instead."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..wire.model_names import model_names
from .client import EndpointClient, EndpointError
from .clip_side import without_model
from .cut import CannotOffloadError, cut_graph
from .display import show_text
from .graph_view import GraphView, Link, is_link
from .history import History
from .interruptible import answered
from .local_models import broken_models
from .node_types import OURS, NodeTypes
from .options import RAISE, THIS_SAMPLER, Options
from .patience import Patience
from .settings import Endpoint, SettingsError, find_endpoint

log = logging.getLogger("velocity")
STARTING_SECONDS = 3.0


def private_folder() -> Path:
    """Return the folder below ComfyUI's user directory that it never serves."""
    import folder_paths

    return Path(folder_paths.get_system_user_directory("velocity"))


class MissingModelError(ValueError):
    """A model file that this machine needs can't be read; the message says which, why and what to do."""


async def plan(
    link: Link,
    get_node: Callable[[str], dict],
    classes: dict[str, type],
    options: Options,
    builder: Any,
    shown_on: str,
    ids: Iterable[str] = (),
) -> Link:
    """Return the link whose value is the list of the sampler's items.

    `get_node` returns a node of the graph by its id, of which `ids` are all. `builder` is ComfyUI's GraphBuilder, which
    gets the nodes; `shown_on` is the node of the user's graph that shows the progress, or why the sampler runs here.
    Raises `SettingsError`, `CannotOffloadError` and `MissingModelError`, and `EndpointError` where the options want
    that.
    """
    view, reason = GraphView(get_node, NodeTypes(classes), ids), ""
    if options.route != "local":
        try:
            return await _remote(link, view, options, builder, shown_on)
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
    _check_models([link], view, f"{reason} To run here instead, it" if reason else "The sampler runs here and")
    return [builder.node("VelocityOffloadLocal", samples=link).id, 0]


async def _remote(link: Link, view: GraphView, options: Options, builder: Any, shown_on: str) -> Link:
    folder = private_folder()
    endpoint = find_endpoint(options.endpoint, folder)
    if endpoint is None:
        message = (
            "no endpoint is configured: set VELOCITY_ENDPOINT and VELOCITY_API_KEY before ComfyUI starts, or write "
            f'{folder / "endpoints.json"}: {{"default": {{"url": "http://127.0.0.1:8288", "key": "..."}}}}'
        )
        raise CannotOffloadError(message) if options.route == "auto" else SettingsError(message)
    available = await _node_classes(endpoint, folder)
    cut = cut_graph(view, link, options.text_encoding == "remote", available, options.samplers != THIS_SAMPLER)
    for said in cut.stays:
        log.warning("Offload: %s", said)
    made_here = [value for value in [*cut.links, *cut.twice] if is_link(value)]
    _check_models(made_here, view, "; ".join([*cut.stays, f"What runs here (text_encoding {options.text_encoding})"]))
    cuts = {f"cut{number}": without_model(value, view, builder) for number, value in enumerate(cut.links)}
    links = [value if is_link(value) else ["that expands to the sampler", 0] for value in cut.links]
    request = json.dumps({"cut": asdict(replace(cut, links=links)), "options": asdict(options)})
    node = builder.node("VelocityOffloadDispatch", request=request, samples=link, shown_on=shown_on, **cuts)
    node.set_override_display_id(shown_on)
    return [node.id, 0]


def _check_models(links: list[Link], view: GraphView, what: str) -> None:
    """Raise `MissingModelError` if a model file is empty or broken that the nodes behind the links load here."""
    nodes = {node_id: view.get_node(node_id) for link in links for node_id in view.ancestors(link, OURS)}
    for name, problem in broken_models(model_names(nodes)).items():
        users = [node_id for node_id, node in nodes.items() if name in model_names({node_id: node})]
        raise MissingModelError(
            f"{what} needs {name} ({nodes[users[0]]['class_type']}, node {users[0]}), which {problem}. Copy the file "
            "here, or load text encoder and VAE from files of their own; with text_encoding remote the endpoint encodes"
        )


async def _node_classes(endpoint: Endpoint, folder: Path) -> list[str]:
    history = History(folder)
    capabilities = history.capabilities(endpoint.name)
    if capabilities is None:
        async with EndpointClient(endpoint) as client:
            patience = Patience(STARTING_SECONDS, lambda error: log.info("Offload: %s", error))
            capabilities = await answered(patience.run(client.capabilities), endpoint)
        history.record_capabilities(endpoint.name, capabilities)
        history.save()
    return capabilities["node_classes"]
