"""Links of a manifest's graph, and what an input may come to be through them."""

from collections.abc import Iterator
from typing import Any

from .manifest import Manifest
from .refusal import bad_request, quoted

MAX_OUTPUTS = 64  # of a node


def is_link(value: Any) -> bool:
    """Whether ComfyUI takes the value for a link."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, float))
    )


def check_link(link: list, form: Manifest) -> None:
    """Raise `Refusal` unless the link leads to a node of the graph and to an output that a node can have."""
    node, output = link
    if not isinstance(node, str) or node not in form.graph:
        raise bad_request(f"there is a link to the node {quoted(node)}, which is not in the graph")
    if type(output) is not int or not 0 <= output < MAX_OUTPUTS:
        raise bad_request(f"there is a link to the output {quoted(output)}, which no node has")


def scalars(value: Any, form: Manifest) -> Iterator[Any]:
    """Yield the texts and numbers that an input may come to be: its own, a cut's, or those of a primitive node."""
    if isinstance(value, dict) and "@cut" in value:
        yield from (item for item in form.cuts[value["@cut"]] if not isinstance(item, (dict, list)))
    elif is_link(value):
        source = form.graph[value[0]]
        if source.class_type.startswith("Primitive"):
            yield from (item for item in source.inputs.values() if not isinstance(item, (dict, list)))
    else:
        yield from _scalars_within(value)


def _scalars_within(literal: Any) -> Iterator[Any]:
    """Yield the texts and numbers in a literal. What looks like a link deep inside of it is none for ComfyUI."""
    if isinstance(literal, (dict, list)):
        for item in literal.values() if isinstance(literal, dict) else literal:
            yield from _scalars_within(item)
        if isinstance(literal, dict):
            yield from literal
    else:
        yield literal


def source_of(value: Any) -> tuple[str, Any] | None:
    """Return what an input shares with others that have the same cut or link; None for a value of its own."""
    if isinstance(value, dict) and "@cut" in value:
        return "cut", value["@cut"]
    return ("node", value[0]) if is_link(value) else None


def check_acyclic(form: Manifest) -> None:
    """Raise `Refusal` if the graph has a cycle (Kahn, 1962)."""
    sources = {
        node_id: {value[0] for value in node.inputs.values() if is_link(value)} for node_id, node in form.graph.items()
    }
    users: dict[str, list[str]] = {node_id: [] for node_id in sources}
    for node_id, needed in sources.items():
        for source in needed:
            users[source].append(node_id)
    waiting = {node_id: len(needed) for node_id, needed in sources.items()}
    ready = [node_id for node_id, count in waiting.items() if not count]
    done = 0
    while ready:
        done += 1
        for user in users[ready.pop()]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if done < len(form.graph):
        raise bad_request("the graph has a cycle")
