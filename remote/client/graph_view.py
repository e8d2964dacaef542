"""The user's graph as ComfyUI will run it: with types, and past switches whose branch is known."""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

from .node_types import ANY, MODEL_SIDE, NodeTypes

Link = list  # [node id, output index], as in ComfyUI's API format
UNKNOWN = object()
OFF, ON = "on_false", "on_true"
SWITCH = "ComfySwitchNode"
# Core's nodes of logic -> what they make of their inputs' values.
LOGIC: dict[str, Callable[[list], bool]] = {
    "InvertBooleanNode": lambda values: not values[0],
    "ComfyNotNode": lambda values: not values[0],
    "ComfyAndNode": all,
    "ComfyOrNode": any,
}


class Into(NamedTuple):
    """One input of a node: its type, what its class says of it, and its value, a link or the value itself."""

    name: str
    kind: str
    options: dict[str, Any]
    value: Any


class GraphView:
    """Looks at nodes by id; `get_node` returns them in API format, `ids` are all there are."""

    def __init__(self, get_node: Callable[[str], dict], types: NodeTypes, ids: Iterable[str] = ()) -> None:
        self.get_node, self.types, self.ids = get_node, types, ids
        self.known: dict[str, list[Into]] = {}

    def class_of(self, link: Link) -> str:
        """Return the class of a link's node."""
        return self.get_node(link[0])["class_type"]

    def into(self, node_id: str) -> list[Into]:
        """Return the inputs of a node. A link leads past the switches whose branch is known, and may turn out to be a
        value; its type is that of the output it comes from, if that has one."""
        if node_id not in self.known:
            node = self.get_node(node_id)
            declared = self.types.inputs(node)
            self.known[node_id] = [
                Into(name, self._kind(value, declared[name][0]), declared[name][1], value)
                for name, value in ((name, self.follow(value)) for name, value in node["inputs"].items())
            ]
        return self.known[node_id]

    def links_into(self, node_id: str) -> Iterator[Into]:
        """Yield the inputs that are links."""
        return (found for found in self.into(node_id) if is_link(found.value))

    def sources(self, link: Link) -> Iterator[Into]:
        """Yield the inputs that are links and that this output is made of."""
        side = self.class_of(link) in MODEL_SIDE
        for found in self.links_into(link[0]):
            if not side or found.kind == self.types.output(self.class_of(link), link[1]):
                yield found

    def ancestors(self, link: Link, stop: Container[str] = ()) -> list[str]:
        """Return the ids of all nodes that an output is made by; of classes in `stop` none, nor what is behind them."""
        seen, waiting, found = set(), [link], {}
        while waiting:
            one = waiting.pop()
            if tuple(one) not in seen and self.class_of(one) not in stop:
                seen.add(tuple(one))
                found[one[0]] = None
                waiting += [into.value for into in self.sources(one)]
        return list(found)

    def behind_outputs(self, stop: Container[str]) -> list[str]:
        """Return the ids of the nodes that show or save, and of all that they are made by, as `ancestors` does."""
        found = {}
        for node_id in self.ids:
            if self.types.is_output(self.class_of([node_id, 0])):
                links = [into.value for into in self.links_into(node_id)]
                found |= dict.fromkeys([node_id, *(one for link in links for one in self.ancestors(link, stop))])
        return list(found)

    def follow(self, value: Any) -> Any:
        """Return what a link leads to past switches whose branch is known; anything else as it is."""
        while is_link(value) and self.class_of(value) == SWITCH:
            branch = self._branch(self.get_node(value[0])["inputs"])
            if branch is UNKNOWN:
                return value
            value = branch
        return value

    def _branch(self, inputs: dict[str, Any]) -> Any:
        """Return what a switch lets through, UNKNOWN if that shows only when it runs."""
        state = self._value(inputs["switch"])
        return UNKNOWN if state is UNKNOWN else inputs[ON if state else OFF]

    def _value(self, value: Any) -> Any:
        """Return the value that is behind a link if primitives and logic make it, else UNKNOWN."""
        value = self.follow(value)
        if not is_link(value):
            return value
        node = self.get_node(value[0])
        if node["class_type"].startswith("Primitive") and "value" in node["inputs"]:
            return self._value(node["inputs"]["value"])
        if node["class_type"] in LOGIC:
            values = [self._value(found) for found in node["inputs"].values()]
            return UNKNOWN if UNKNOWN in values or not values else LOGIC[node["class_type"]](values)
        return UNKNOWN

    def _kind(self, value: Any, wanted: str) -> str:
        if not is_link(value):
            return wanted
        class_type = self.class_of(value)
        kind = self.types.output(class_type, value[1])
        if kind == ANY and class_type == SWITCH:  # of the type of its branches
            inputs = self.get_node(value[0])["inputs"]
            kinds = {self._kind(self.follow(inputs[name]), ANY) for name in (OFF, ON)}
            kind = kinds.pop() if len(kinds) == 1 else ANY
        return wanted if kind == ANY else kind


def is_link(value: Any) -> bool:
    """Whether an input's value is a link and not the value itself."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
