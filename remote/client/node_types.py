"""What ComfyUI's node classes say of their inputs and outputs, in one form for old (V1) and new (V3) classes."""

from typing import Any

# Plain data, which is the same wherever it is made: the graph is cut where one of these flows.
PLAIN = frozenset(
    {"LATENT", "IMAGE", "MASK", "INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "AUDIO", "CLIP_VISION_OUTPUT"}
)
PIXELS = frozenset({"IMAGE", "MASK", "VIDEO"})
# Put live objects into the conditioning that passes through the node.
LIVE = frozenset({"CONTROL_NET", "HOOKS", "GLIGEN"})
# Only a node that samples takes one of these.
SAMPLED_WITH = frozenset({"MODEL", "GUIDER"})
ANY = "*"


class NodeTypes:
    """Looks classes up in `classes`, ComfyUI's NODE_CLASS_MAPPINGS."""

    def __init__(self, classes: dict[str, type]) -> None:
        self.classes = classes

    def output(self, class_type: str, index: int) -> str:
        """Return the type of an output, `*` if the class does not say."""
        types = getattr(self.classes[class_type], "RETURN_TYPES", ())
        return _plain_name(types[index]) if index < len(types) else ANY

    def input(self, class_type: str, name: str) -> tuple[str, dict[str, Any]]:
        """Return the type of an input and its options; `*` and none for an input that the class does not name."""
        from comfy_execution.graph import get_input_info

        kind, _, options = get_input_info(self.classes[class_type], name)
        return (ANY, {}) if kind is None else (_plain_name(kind), options or {})


def _plain_name(kind: Any) -> str:
    if isinstance(kind, (list, tuple)):  # the old way to write a COMBO
        return "COMBO"
    return ANY if kind == "COMFY_MATCHTYPE_V3" or not isinstance(kind, str) else kind
