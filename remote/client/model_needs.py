"""What needs the diffusion model to be made, and whether the endpoint can make it."""

from collections.abc import Container

from .graph_view import GraphView, Into, Link, is_link
from .node_types import DATA, ENCODERS, MODEL_SIDE, OURS, PLAIN, WITH_MODEL


class ModelNeeds:
    """Answers for one graph and one endpoint, and keeps the answers, as branches join. With `chain` samplers before
    the last one count, too."""

    def __init__(self, view: GraphView, remote_text: bool, available: Container[str], chain: bool) -> None:
        self.view, self.types = view, view.types
        self.remote_text, self.available, self.chain = remote_text, available, chain
        self.needed: dict[tuple, bool] = {}  # by link
        self.kept: dict[str, str | None] = {}  # by node id
        self.lacks: dict[tuple[str, str], str | None] = {}  # by node id and class

    def takes_model(self, node_id: str) -> bool:
        """Whether one of the node's inputs brings the diffusion model."""
        return any(found.kind in WITH_MODEL for found in self.view.into(node_id))

    def is_sampler(self, node_id: str) -> bool:
        """Whether a node takes the model and gives nothing but data, with a latent."""
        kinds = self.gives(node_id)
        return "LATENT" in kinds and kinds <= PLAIN and self.takes_model(node_id)

    def needs_model(self, link: Link) -> bool:
        """Whether it takes the diffusion model to make this, other than in a sampler where the chain ends."""
        if self.view.class_of(link) in OURS:
            return False
        if tuple(link) not in self.needed:
            sources = list(self.view.sources(link))
            if any(found.kind in WITH_MODEL for found in sources):
                needed = self.chain or not self.is_sampler(link[0])
            else:
                needed = any(self.needs_model(found.value) for found in sources if found.kind not in ENCODERS)
            self.needed[tuple(link)] = needed
        return self.needed[tuple(link)]

    def what_keeps(self, link: Link) -> str | None:
        """Return why what needs the model can't go below the cut, None if it can. What is between two samplers goes as
        a whole or not at all, as half of the way there may be pixels."""
        node_id, class_type = link[0], self.view.class_of(link)
        if node_id not in self.kept:
            self.kept[node_id] = self._what_lacks(link)
            between = [] if self.takes_model(node_id) else self.view.links_into(node_id)
            for found in between:
                if self.kept[node_id] is None and found.kind == "CLIP" and not self.remote_text:
                    self.kept[node_id] = f"{class_type} (node {node_id}) encodes text, which stays here"
                elif self.kept[node_id] is None and found.kind in DATA and self.needs_model(found.value):
                    self.kept[node_id] = self.what_keeps(found.value)
        return self.kept[node_id]

    def sent_class(self, link: Link) -> str:
        """Return the class that a node is sent as: of a loader of a LoRA only its model side, as text stays here."""
        class_type = self.view.class_of(link)
        side = MODEL_SIDE.get(class_type)
        return side if side and link[1] == 0 and not self.remote_text and side in self.available else class_type

    def sent_inputs(self, node_id: str, class_type: str) -> list[Into]:
        """Return the node's inputs, of another class that it is sent as those that it has."""
        found = self.view.into(node_id)
        if class_type == self.view.class_of([node_id, 0]):
            return found
        return [one for one in found if self.types.has_input(class_type, one.name)]

    def gives(self, node_id: str) -> set[str]:
        """Return the types of a node's outputs."""
        return set(self.types.outputs(self.view.class_of([node_id, 0])))

    def _what_lacks(self, link: Link) -> str | None:
        """Return what the endpoint lacks of a node and of the loaders and patches that it needs; None for nothing."""
        node_id, class_type = link[0], self.sent_class(link)
        if (node_id, class_type) not in self.lacks:
            missing = None
            if class_type not in self.available:
                missing = f"the endpoint does not run {class_type} (node {node_id})"
            for found in self.sent_inputs(node_id, class_type):
                if missing is None and is_link(found.value) and found.kind not in DATA:
                    missing = self._what_lacks(found.value)
            self.lacks[node_id, class_type] = missing
        return self.lacks[node_id, class_type]
