"""Cuts a graph at plain data: what is above the cut runs here, what is below it is sent as a small graph of its own.

From the sampler upwards, every link that carries plain data (`node_types.PLAIN`, and conditioning) is cut. Loaders,
LoRAs, model patches, guiders, schedulers and the sampler itself are below. Below the cut go, too:

- what needs the diffusion model to make plain data, with all of its outputs, so that the model is loaded on one side;
- among them the samplers before this one, and what is between them, unless `chain` is off;
- nodes that put a ControlNet, hooks or GLIGEN into conditioning, which can't be sent as data;
- with `remote_text` the text encoders. Without it no text encoder goes there for a sampler's sake.

What something that shows or saves is made by runs here in any case. Of that nothing goes below the cut for its text's
sake; what needs the diffusion model does, and runs on both sides.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from .errors import EndpointError
from .graph_view import GraphView, Into, Link, is_link
from .model_needs import ModelNeeds
from .node_types import ANY, DATA, LIVE, OURS, PIXELS, PLAIN, SOUND


class CannotOffloadError(ValueError):
    """This graph can't be sent; the message names the node and what can be done."""


@dataclass
class Cut:
    """What is below the cut: `graph` and `output` as the protocol has them.

    `links` are the links that were cut, in the order of their numbers, and `kinds` their types; where a node that
    expands to others gives them a value instead of a link, it is that value. `names` says which nodes of the user's
    graph the sent ones are. `prompt_text`, `pixels` and `sound` list what of these leaves the machine, `stays` why
    samplers before this one run here, and what is sent and runs here, too: the links to that are in `twice`. `samplers`
    are the sent nodes that sample, in the order in which they do.
    """

    graph: dict[str, dict[str, Any]] = field(default_factory=dict)
    output: list = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    prompt_text: list[str] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    twice: list[Link] = field(default_factory=list)
    samplers: list[str] = field(default_factory=list)


def cut_graph(view: GraphView, output: Link, remote_text: bool, available: Container[str], chain: bool = True) -> Cut:
    """Return what has to be sent so that the endpoint can make `output`, an output of a sampler.

    `available` holds the node classes of the endpoint. With `chain` the samplers before this one go along. Raises
    `CannotOffloadError`, and `EndpointError` if the endpoint lacks a node's class.
    """
    cutter = _Cutter(view, remote_text, available, chain)
    output = cutter.view.follow(output)
    root = cutter.view.class_of(output) if is_link(output) else "a value"
    if root in OURS:
        raise CannotOffloadError("the latent already comes from an offloading node; connect Offload behind a sampler")
    if not is_link(output) or not cutter.needs.takes_model(output[0]):
        raise CannotOffloadError(
            f"{root} is no sampler (it takes no model and no guider); connect Offload directly behind the sampler"
        )
    cutter.refuse_loops(output)
    cutter.cut.output = cutter.ship(output)
    cutter.note_what_runs_twice()
    return cutter.cut


class _Cutter:
    def __init__(self, view: GraphView, remote_text: bool, available: Container[str], chain: bool) -> None:
        self.view, self.types, self.remote_text, self.available = view, view.types, remote_text, available
        self.needs = ModelNeeds(view, remote_text, available, chain)
        self.cut = Cut()
        self.ids: dict[tuple[str, str], str] = {}  # by node id and the class that it is sent as
        self.live: dict[str, bool] = {}  # by node id
        self.here = view.behind_outputs(OURS)

    def refuse_loops(self, link: Link) -> None:
        """Raise `CannotOffloadError` if the sampler is in a loop or behind one."""
        for node_id in self.view.ancestors(link):
            class_type = self.view.class_of([node_id, 0])
            if self.types.is_loop(class_type):
                raise CannotOffloadError(
                    f"the sampler depends on {class_type} (node {node_id}), which runs a part of the graph several "
                    "times, and only one pass of it could be sent: set route to local"
                )

    def note_what_runs_twice(self) -> None:
        """Say which sent nodes run here, too, as something here takes data from them."""
        sent = set(self.cut.names.values())
        for node_id in self.here:
            for found in self.view.links_into(node_id) if node_id not in sent else ():
                if found.value[0] in sent and found.kind in DATA:
                    self.cut.twice.append(found.value)
                    self.cut.stays.append(
                        f"{self.view.class_of(found.value)} (node {found.value[0]}) runs here, too, as "
                        f"{self.view.class_of([node_id, 0])} (node {node_id}) takes its {found.kind}"
                    )

    def ship(self, link: Link) -> list:
        """Put the link's node below the cut, and return the link to its output there."""
        node_id, class_type = link[0], self.needs.sent_class(link)
        if (node_id, class_type) not in self.ids:
            self._check_available(class_type, node_id)
            self.ids[node_id, class_type] = name = str(len(self.cut.graph) + 1)
            self.cut.names[name] = node_id
            self.cut.graph[name] = shipped = {"class_type": class_type, "inputs": {}}
            for found in self.needs.sent_inputs(node_id, class_type):
                shipped["inputs"][found.name] = self._input(class_type, found)
            if self.needs.is_sampler(node_id):  # behind those that it needs
                self.cut.samplers.append(name)
        return [self.ids[node_id, class_type], link[1]]

    def _input(self, class_type: str, found: Into) -> Any:
        value, kind, place = found.value, found.kind, f"{class_type}.{found.name}"
        if _is_json(value) and not is_link(value):
            if _is_prompt(value, kind, found.options):
                self.cut.prompt_text.append(place)
            return value
        parts = set(kind.split(","))
        if not is_link(value) and not parts <= PLAIN | {"CONDITIONING"}:
            raise CannotOffloadError(f"{place} is no link but a {kind} itself, which can't be sent: set route to local")
        if is_link(value) and not self._is_cut(value, kind):
            return self.ship(value)
        for kinds, places in (
            ({"STRING"}, self.cut.prompt_text),
            (PIXELS, self.cut.pixels),
            (SOUND, self.cut.sound),
        ):
            if parts & kinds:
                places.append(place)
        return {"@cut": self._number(value, kind)}

    def _number(self, value: Any, kind: str) -> int:
        """Return the number of a cut; one link is cut once."""
        for number, known in enumerate(self.cut.links):
            if known is value or (is_link(value) and known == value):
                return number
        self.cut.links.append(value)
        self.cut.kinds.append(kind)
        return len(self.cut.links) - 1

    def _is_cut(self, link: Link, kind: str) -> bool:
        if kind == "SIGMAS":  # plain, but to make them takes the model
            return self.view.class_of(link) not in self.available
        if not set(kind.split(",")) <= DATA or self._goes_for_conditioning(link, kind):
            return False
        if not self.needs.needs_model(link):
            return True
        reason = self.needs.what_keeps(link)
        if reason:
            self._note_what_stays(link, reason)
        return reason is not None

    def _goes_for_conditioning(self, link: Link, kind: str) -> bool:
        """Whether a node is sent because conditioning that it makes, or is made of, can't be or is not made here."""
        node_id = link[0]
        for_text = self.remote_text and node_id not in self.here
        if "CONDITIONING" in {kind, *self.needs.gives(node_id)}:
            return for_text or self._carries_live_objects(link)
        return for_text and any(found.kind == "CONDITIONING" for found in self.view.links_into(node_id))

    def _note_what_stays(self, link: Link, reason: str) -> None:
        samplers = [node_id for node_id in self.view.ancestors(link, OURS) if self.needs.is_sampler(node_id)]
        for node_id in samplers:
            said = f"{self.view.class_of([node_id, 0])} (node {node_id}) runs here, as {reason}"
            if said not in self.cut.stays:
                self.cut.stays.append(said)

    def _carries_live_objects(self, link: Link) -> bool:
        if link[0] not in self.live:  # asked once for each node: conditioning branches and joins
            self.live[link[0]] = any(self._is_live(link, found) for found in self.view.links_into(link[0]))
        return self.live[link[0]]

    def _is_live(self, link: Link, found: Into) -> bool:
        if found.kind == "CLIP" and self._has_hooks(found.value):
            if self.remote_text:
                return True
            raise CannotOffloadError(
                f"{self.view.class_of(link)} (node {link[0]}) encodes with hooks; its conditioning carries them, and "
                "they can't be sent: set text_encoding to remote, or route to local"
            )
        return found.kind in LIVE or (found.kind == "CONDITIONING" and self._carries_live_objects(found.value))

    def _has_hooks(self, clip: Link) -> bool:
        return any(
            found.kind == "HOOKS" or (found.kind == "CLIP" and self._has_hooks(found.value))
            for found in self.view.links_into(clip[0])
        )

    def _check_available(self, class_type: str, node_id: str) -> None:
        if class_type not in self.available:
            raise EndpointError(
                "unsupported_node",
                f"the endpoint does not run {class_type} (node {node_id})",
                f"Install its pack there and start the endpoint with --allow {class_type}, bypass the node, or set "
                "route to local",
            )


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return all(map(_is_json, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_prompt(value: Any, wanted: str, options: dict[str, Any]) -> bool:
    """Whether a widget's value may be prompt text: words, or what ComfyUI shows as a text area."""
    if wanted not in ("STRING", ANY) or not isinstance(value, str) or not value:
        return False
    return any(map(str.isalpha, value)) or bool(options.get("multiline") or options.get("dynamicPrompts"))
