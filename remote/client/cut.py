"""Cuts a graph at plain data: what is above the cut runs here, what is below it is sent as a small graph of its own.

From the sampler upwards, every link that carries plain data (`node_types.PLAIN`, and conditioning) is cut. Loaders,
LoRAs, model patches, guiders, schedulers and the sampler itself are below. Conditioning with a ControlNet, hooks or
GLIGEN in it can't be sent as data, so the node that put it there goes below the cut too.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from .node_types import ANY, LIVE, PIXELS, PLAIN, SAMPLED_WITH, NodeTypes

Link = list  # [node id, output index], as in ComfyUI's API format
OURS = ("VelocityOffload", "VelocityRemoteSampler")


class CannotOffloadError(ValueError):
    """This graph can't be sent; the message names the node and what can be done."""


@dataclass
class Cut:
    """What is below the cut: `graph` and `output` as the protocol has them.

    `links` are the links that were cut, in the order of their numbers, and `kinds` their types; where a node that
    expands to others gives them a value instead of a link, it is that value. `names` says which nodes of the user's
    graph the sent ones are. `prompt_text` and `pixels` list what of these leaves the machine.
    """

    graph: dict[str, dict[str, Any]] = field(default_factory=dict)
    output: list = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    prompt_text: list[str] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)


def cut_graph(
    get_node: Callable[[str], dict],
    types: NodeTypes,
    output: Link,
    remote_text: bool,
    available: Container[str],
) -> Cut:
    """Return what has to be sent so that the endpoint can make `output`, an output of a sampler.

    `get_node` returns a node of the user's graph in API format, `available` holds the node classes of the endpoint.
    With `remote_text` the text encoders go below the cut too. Raises `CannotOffloadError`.
    """
    root = get_node(output[0])["class_type"]
    if root in OURS:
        raise CannotOffloadError("the latent already comes from an offloading node; connect Offload behind a sampler")
    cutter = _Cutter(get_node, types, remote_text, available)
    if not cutter.samples(output[0]):
        raise CannotOffloadError(
            f"{root} is no sampler (it takes no model and no guider); connect Offload directly behind the sampler"
        )
    cutter.cut.output = cutter.ship(output)
    return cutter.cut


class _Cutter:
    def __init__(
        self, get_node: Callable[[str], dict], types: NodeTypes, remote_text: bool, available: Container[str]
    ) -> None:
        self.get_node, self.types, self.remote_text, self.available = get_node, types, remote_text, available
        self.cut = Cut()
        self.ids: dict[str, str] = {}
        self.live: dict[str, bool] = {}  # by node id

    def samples(self, node_id: str) -> bool:
        """Whether one of the node's inputs is what only a sampler takes."""
        node = self.get_node(node_id)
        kinds = [self.types.input(node["class_type"], name)[0] for name in node["inputs"]]
        return not SAMPLED_WITH.isdisjoint([*kinds, *(kind for _, kind in self._upstream([node_id, 0]))])

    def ship(self, link: Link) -> list:
        """Put the link's node below the cut, and return the link to its output there."""
        node_id = link[0]
        if node_id not in self.ids:
            node = self.get_node(node_id)
            self._check_available(node["class_type"], node_id)
            self.ids[node_id] = name = str(len(self.ids) + 1)
            self.cut.names[name] = node_id
            self.cut.graph[name] = shipped = {"class_type": node["class_type"], "inputs": {}}
            for input_name, value in node["inputs"].items():
                shipped["inputs"][input_name] = self._input(node["class_type"], input_name, value)
        return [self.ids[node_id], link[1]]

    def _input(self, class_type: str, name: str, value: Any) -> Any:
        wanted, options = self.types.input(class_type, name)
        place = f"{class_type}.{name}"
        if _is_json(value) and not is_link(value):
            if _is_prompt(value, wanted, options):
                self.cut.prompt_text.append(place)
            return value
        kind = self._kind(value, wanted) if is_link(value) else wanted
        if not is_link(value) and not set(kind.split(",")) <= PLAIN | {"CONDITIONING"}:
            raise CannotOffloadError(f"{place} is no link but a {kind} itself, which can't be sent: set route to local")
        if is_link(value) and not self._is_cut(value, kind):
            return self.ship(value)
        parts = set(kind.split(","))
        if "STRING" in parts:
            self.cut.prompt_text.append(place)
        if parts & PIXELS:
            self.cut.pixels.append(place)
        same = (n for n, known in enumerate(self.cut.links) if known is value or (is_link(value) and known == value))
        number = next(same, len(self.cut.links))
        if number == len(self.cut.links):
            self.cut.links.append(value)
            self.cut.kinds.append(kind)
        return {"@cut": number}

    def _is_cut(self, link: Link, kind: str) -> bool:
        if kind == "CONDITIONING":
            return not (self.remote_text or self._carries_live_objects(link))
        if kind == "LATENT":  # some nodes make conditioning and the latent for it in one
            return not (self.remote_text and any(k == "CONDITIONING" for _, k in self._upstream(link)))
        if kind == "SIGMAS":  # plain, but to make them takes the model
            return self._class(link) not in self.available
        return all(part in PLAIN for part in kind.split(","))

    def _carries_live_objects(self, link: Link) -> bool:
        if link[0] not in self.live:  # asked once for each node: conditioning branches and joins
            self.live[link[0]] = any(self._is_live(link, upstream, kind) for upstream, kind in self._upstream(link))
        return self.live[link[0]]

    def _is_live(self, link: Link, upstream: Link, kind: str) -> bool:
        if kind == "CLIP" and self._has_hooks(upstream):
            raise CannotOffloadError(
                f"{self._class(link)} (node {link[0]}) encodes with hooks; its conditioning carries them, and they "
                "can't be sent: set text_encoding to remote, or route to local"
            )
        return kind in LIVE or (kind == "CONDITIONING" and self._carries_live_objects(upstream))

    def _has_hooks(self, clip: Link) -> bool:
        return any(kind == "HOOKS" or (kind == "CLIP" and self._has_hooks(link)) for link, kind in self._upstream(clip))

    def _check_available(self, class_type: str, node_id: str) -> None:
        if class_type not in self.available:
            raise CannotOffloadError(
                f"the endpoint does not run {class_type} (node {node_id}). Install its pack there and start the "
                f"endpoint with --allow {class_type}, bypass the node, or set route to local"
            )

    def _upstream(self, link: Link) -> list[tuple[Link, str]]:
        """Return the links into the link's node, with their types."""
        node = self.get_node(link[0])
        return [
            (value, self._kind(value, self.types.input(node["class_type"], name)[0]))
            for name, value in node["inputs"].items()
            if is_link(value)
        ]

    def _kind(self, link: Link, wanted: str) -> str:
        kind = self.types.output(self._class(link), link[1])
        return wanted if kind == ANY else kind

    def _class(self, link: Link) -> str:
        return self.get_node(link[0])["class_type"]


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return all(map(_is_json, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, (bool, int, float, str))


def is_link(value: Any) -> bool:
    """Whether an input's value is a link and not the value itself."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _is_prompt(value: Any, wanted: str, options: dict[str, Any]) -> bool:
    """Whether a widget's value may be prompt text: words, or what ComfyUI shows as a text area."""
    if wanted not in ("STRING", ANY) or not isinstance(value, str) or not value:
        return False
    return any(map(str.isalpha, value)) or bool(options.get("multiline") or options.get("dynamicPrompts"))
