"""What ComfyUI's node classes say of their inputs and outputs, in one form for old (V1) and new (V3) classes."""

from typing import Any

# Plain data, which is the same wherever it is made: the graph is cut where one of these flows.
PLAIN = frozenset(
    {
        "LATENT",
        "IMAGE",
        "MASK",
        "INT",
        "FLOAT",
        "STRING",
        "BOOLEAN",
        "COMBO",
        "AUDIO",
        "AUDIO_ENCODER_OUTPUT",
        "CLIP_VISION_OUTPUT",
    }
)
DATA = PLAIN | {"CONDITIONING", "SIGMAS"}
PIXELS = frozenset({"IMAGE", "MASK", "VIDEO"})
SOUND = frozenset({"AUDIO", "AUDIO_ENCODER_OUTPUT"})
# Put live objects into the conditioning that passes through the node.
LIVE = frozenset({"CONTROL_NET", "HOOKS", "GLIGEN"})
# What the diffusion model is in, and what is loaded beside it.
WITH_MODEL = frozenset({"MODEL", "GUIDER"})
ENCODERS = frozenset({"CLIP", "VAE"})
ANY = "*"
OURS = ("VelocityOffload", "VelocityRemoteSampler")  # a latent from one of these has been offloaded by itself
# A loader of a LoRA for model and text encoder -> the one with nothing but its model side.
MODEL_SIDE = {"LoraLoader": "LoraLoaderModelOnly", "LoraLoaderBypass": "LoraLoaderBypassModelOnly"}

Input = tuple[str, dict[str, Any]]  # type and options


class NodeTypes:
    """Looks classes up in `classes`, ComfyUI's NODE_CLASS_MAPPINGS."""

    def __init__(self, classes: dict[str, type]) -> None:
        self.classes = classes

    def outputs(self, class_type: str) -> list[str]:
        """Return the types of the outputs, `*` for one that takes the type of what it is given."""
        return [_plain_name(kind) for kind in getattr(self.classes.get(class_type), "RETURN_TYPES", ())]

    def output(self, class_type: str, index: int) -> str:
        """Return the type of an output, `*` if the class does not say."""
        types = self.outputs(class_type)
        return types[index] if index < len(types) else ANY

    def inputs(self, node: dict[str, Any]) -> dict[str, Input]:
        """Return type and options of each input that the node has; `*` and none for one that its class does not name.

        What inputs a class has can depend on those that are there (`images.image_1` of a list that grows).
        """
        from comfy_api.latest import _io
        from comfy_execution.graph import get_input_info

        node_class, names = self.classes.get(node["class_type"]), node["inputs"]
        if node_class is None:  # of a pack that is not here, as in graphs that come from elsewhere
            return dict.fromkeys(names, (ANY, {}))
        declared = node_class.INPUT_TYPES()
        if isinstance(node_class, type) and issubclass(node_class, _io.ComfyNode):
            declared, *_ = _io.get_finalized_class_inputs(declared, names)
        found = {name: get_input_info(node_class, name, declared) for name in names}
        return {
            name: (ANY, {}) if kind is None else (_plain_name(kind), options or {})
            for name, (kind, _, options) in found.items()
        }

    def has_input(self, class_type: str, name: str) -> bool:
        """Return whether the class declares an input of this name."""
        declared = self.classes[class_type].INPUT_TYPES()
        return any(name in declared.get(part, {}) for part in ("required", "optional"))

    def is_output(self, class_type: str) -> bool:
        """Return whether the node shows or saves something, so that it runs, and all that it needs."""
        return bool(getattr(self.classes.get(class_type), "OUTPUT_NODE", False))

    def is_loop(self, class_type: str) -> bool:
        """Return whether the node runs a part of the graph several times, as those of newer cores say of themselves."""
        schema = getattr(self.classes.get(class_type), "SCHEMA", None)
        return bool(getattr(schema, "loop_boundary", None)) or str(class_type).startswith("Loop")


def _plain_name(kind: Any) -> str:
    if isinstance(kind, (list, tuple)):  # the old way to write a COMBO
        return "COMBO"
    return ANY if kind == "COMFY_MATCHTYPE_V3" or not isinstance(kind, str) else kind
