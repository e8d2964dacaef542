"""From Offload's inputs to the nodes that ComfyUI is to run instead."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..wire.model_names import model_names
from .client import EndpointError
from .clip_side import without_model
from .cold_start import node_classes
from .cut import CannotOffloadError, cut_graph
from .display import show_text
from .graph_view import GraphView, Link, is_link
from .local_models import broken_models, find_models
from .node_types import OURS, NodeTypes
from .options import RAISE, THIS_SAMPLER, Options
from .sealed import seal
from .settings import SettingsError, find_endpoint

log = logging.getLogger("velocity")


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
        except (CannotOffloadError, EndpointError) as error:
            if not _leads_here(error, options):
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

    def wait() -> bool:
        return options.route != "auto" or not _can_run_here(link, view)

    available = await node_classes(endpoint, folder, wait, lambda text: show_text(text, shown_on))
    cut = cut_graph(view, link, options.text_encoding == "remote", available, options.samplers != THIS_SAMPLER)
    for said in cut.stays:
        log.warning("Offload: %s", said)
    made_here = [value for value in [*cut.links, *cut.twice] if is_link(value)]
    _check_models(made_here, view, "; ".join([*cut.stays, f"What runs here (text_encoding {options.text_encoding})"]))
    cuts = {f"cut{number}": without_model(value, view, builder) for number, value in enumerate(cut.links)}
    links = [value if is_link(value) else ["that expands to the sampler", 0] for value in cut.links]
    request = seal({"cut": asdict(replace(cut, links=links)), "options": asdict(options)})
    node = builder.node("VelocityOffloadDispatch", request=request, samples=link, shown_on=shown_on, **cuts)
    node.set_override_display_id(shown_on)
    return [node.id, 0]


def _leads_here(error: CannotOffloadError | EndpointError, options: Options) -> bool:
    """Whether the user wants the sampler to run here then. `auto` finds out by trying what can be sent, and where."""
    by_choice = isinstance(error, CannotOffloadError) or error.code in ("cold", "unsupported_node")
    if by_choice and options.route == "auto":
        return True
    return isinstance(error, EndpointError) and options.on_failure != RAISE


def _check_models(links: list[Link], view: GraphView, what: str) -> None:
    """Raise `MissingModelError` if a model file is empty or broken that the nodes behind the links load here."""
    nodes = {node_id: view.get_node(node_id) for link in links for node_id in view.ancestors(link, OURS)}
    for name, problem in broken_models(model_names(nodes)).items():
        users = [node_id for node_id, node in nodes.items() if name in model_names({node_id: node})]
        raise MissingModelError(
            f"{what} needs {name} ({nodes[users[0]]['class_type']}, node {users[0]}), which {problem}. Copy the file "
            "here, or load text encoder and VAE from files of their own; with text_encoding remote the endpoint encodes"
        )


def _can_run_here(link: Link, view: GraphView) -> bool:
    """Whether the files that the sampler needs are on this machine."""
    names = model_names({node_id: view.get_node(node_id) for node_id in view.ancestors(link, OURS)})
    return not broken_models(names) and len(find_models(names)) == len(names)
