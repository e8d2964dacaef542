"""Text that is encoded here with a LoRA, without the diffusion model.

A loader of a LoRA for both model and text encoder would have the model loaded for its CLIP output. Core's applies the
LoRA to whichever of the two it is given, so what encodes the text is repeated behind a copy of it that has no model.
"""

from typing import Any

from .graph_view import GraphView, Link, is_link
from .node_types import MODEL_SIDE, OURS, WITH_MODEL

CLIP = 1  # the loaders' output


def without_model(link: Link | Any, view: GraphView, builder: Any) -> Link | Any:
    """Return a link to the same value that does not take the diffusion model to make.

    `builder` is ComfyUI's GraphBuilder, which gets the copies; where none are needed it is the link itself, and a value
    stays what it is.
    """
    return _ClipSide(view, builder).copy(link) if is_link(link) else link


class _ClipSide:
    def __init__(self, view: GraphView, builder: Any) -> None:
        self.view, self.builder = view, builder
        self.copies: dict[str, Any] = {}  # nodes, by id; None for those that stay

    def copy(self, link: Link) -> Link:
        if self.view.class_of(link) in MODEL_SIDE and link[1] != CLIP:
            return link
        if link[0] not in self.copies:
            self.copies[link[0]] = self._node(link[0])
        node = self.copies[link[0]]
        return link if node is None else node.out(link[1])

    def _node(self, node_id: str) -> Any:
        class_type = self.view.class_of([node_id, 0])
        links = list(self.view.links_into(node_id))
        loader, takes_model = class_type in MODEL_SIDE, any(found.kind in WITH_MODEL for found in links)
        if class_type in OURS or (takes_model and not loader):
            return None
        copied = {found.name: self.copy(found.value) for found in links if found.kind not in WITH_MODEL}
        if not loader and all(copied[found.name] is found.value for found in links):
            return None
        node = self.builder.node(class_type)
        node.set_override_display_id(node_id)
        node.inputs.update({found.name: found.value for found in self.view.into(node_id)}, **copied)
        if loader:
            node.inputs["model"] = None
        return node
