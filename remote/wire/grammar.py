"""What packed values are made of (values.py), without torch: an endpoint checks them and has none."""

from typing import Any

# torch's names of the dtypes that travel -> safetensors' names.
DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
# What each dtype may travel as besides itself, smallest first; in safetensors' names.
SMALLER = {
    "F64": ("BF16", "F16", "F32"),
    "F32": ("BF16", "F16"),
    "I64": ("U8", "I16", "I32"),
    "I32": ("U8", "I16"),
}
CLIP_VISION_FIELDS = (
    "last_hidden_state",
    "image_embeds",
    "penultimate_hidden_states",
    "all_hidden_states",
    "mm_projected",
    "image_sizes",
)
MAX_DEPTH = 32


def laid_out(entry: dict[str, Any]) -> list[int] | None:
    """Return the shape of what is in memory of a packed tensor: its `shape` in `order`, 1 where it is `repeated`.

    None if these are no lists that name each dimension once, or some of them.
    """
    shape, names = entry["shape"], range(len(entry["shape"]))
    order, repeated = entry.get("order", list(names)), entry.get("repeated", [])
    for found in (order, repeated):
        if not isinstance(found, list) or any(type(i) is not int or i not in names for i in found):
            return None
    if sorted(order) != list(names):
        return None
    return [1 if i in repeated and shape[i] else shape[i] for i in order]
