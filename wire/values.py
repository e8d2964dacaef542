"""Python values as JSON plus blobs, without pickle: what conditioning, latents and other plain data are made of.

A dict with one key that begins with `@` stands for something that JSON lacks:

    {"@tensor": name, "dtype": "float32", "shape": [1, 512, 4096], "rows": 60}   a blob; see `lossless`
    {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 64, 64]}                 every element is the same: no blob
    {"@tuple": [...]}, {"@nested": [tensors]}, {"@clip_vision": {...}}

Tensors come back bit for bit, on the CPU, in their own dtype and shape.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from .blob import BlobError, check_shape, encode_header, is_blob_name
from .lossless import DTYPES, SAFETENSORS_NAMES, Shrunk, restore, shrink

CLIP_VISION_FIELDS = ("last_hidden_state", "image_embeds", "penultimate_hidden_states", "mm_projected", "image_sizes")
MAX_DEPTH = 32


class UnshippableError(TypeError):
    """A value that cannot travel. `path` leads to it, such as `[0][1]['control']`."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(f"{kind} at {path or 'the top'} cannot be sent")
        self.path, self.kind = path, kind


def pack(value: Any, add_blob: Callable[[bytes], str]) -> Any:
    """Return `value` as JSON data; `add_blob` takes the bytes of each blob and returns the blob's name.

    Raises `UnshippableError` for live objects (models, ControlNets, hooks) and for numbers that are not finite.
    """
    return _Packer(add_blob).pack(value, "", 0)


class _Packer:
    def __init__(self, add_blob: Callable[[bytes], str]) -> None:
        self.add_blob = add_blob

    def pack(self, value: Any, path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise UnshippableError(path, f"what is nested more than {MAX_DEPTH} deep")
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            if not math.isfinite(value):
                raise UnshippableError(path, f"the number {value}")
            return value
        if isinstance(value, torch.Tensor) and type(value) in (torch.Tensor, torch.nn.Parameter):
            return self._tensor(value, path)
        if type(value) in (list, tuple):
            items = [self.pack(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            return {"@tuple": items} if type(value) is tuple else items
        if type(value) is dict:
            return self._dict(value, path, depth)
        return self._object(value, path, depth)

    def _dict(self, value: dict, path: str, depth: int) -> dict:
        for key in value:
            if type(key) is not str or key.startswith("@"):
                raise UnshippableError(path, f"a dict with the key {key!r}")
        return {key: self.pack(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}

    def _object(self, value: Any, path: str, depth: int) -> dict:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if kind == "comfy.nested_tensor.NestedTensor":
            return {"@nested": [self._tensor(item, f"{path}.tensors[{i}]") for i, item in enumerate(value.tensors)]}
        if kind == "comfy.clip_vision.Output":
            fields = {name: getattr(value, name) for name in CLIP_VISION_FIELDS if hasattr(value, name)}
            return {"@clip_vision": self._dict(fields, path, depth)}
        raise UnshippableError(path, f"a live object ({kind})")

    def _tensor(self, tensor: torch.Tensor, path: str) -> dict:
        if tensor.layout != torch.strided or tensor.dtype not in SAFETENSORS_NAMES:
            raise UnshippableError(path, f"a tensor of {tensor.dtype}, {tensor.layout}")
        if tensor.dtype.is_floating_point and not torch.isfinite(tensor.float()).all():
            raise UnshippableError(path, "a tensor with numbers that are not finite")
        shrunk = shrink(tensor)
        entry = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        if shrunk.fill is not None:
            return {"@fill": shrunk.fill, **entry}
        if shrunk.rows is not None:
            entry["rows"] = shrunk.rows
        return {"@tensor": self.add_blob(tensor_blob(shrunk.data)), **entry}


def tensor_blob(tensor: torch.Tensor) -> bytes:
    """Return the bytes of the blob that holds a contiguous CPU tensor."""
    header = encode_header(SAFETENSORS_NAMES[tensor.dtype], tuple(tensor.shape))
    return header + tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else header


def blob_tensor(data: bytes) -> torch.Tensor:
    """Return the tensor of a blob that `check_blob` has accepted."""
    from .blob import MAX_HEADER, read_header

    header = read_header(data[: 8 + MAX_HEADER])
    dtype = next(dtype for dtype, name in SAFETENSORS_NAMES.items() if name == header.dtype)
    flat = torch.frombuffer(bytearray(data[header.start :]), dtype=torch.uint8) if header.data_bytes else torch.empty(0)
    return flat.view(dtype).reshape(header.shape) if header.data_bytes else torch.empty(header.shape, dtype=dtype)


def unpack(packed: Any, get_blob: Callable[[str], bytes]) -> Any:
    """Return the value that `pack` was given; `get_blob` returns the bytes of a blob by its name.

    The sizes have been checked before (an endpoint does so at admission). Raises `BlobError` for what `pack` does not
    write, and whatever `get_blob` raises.
    """
    if isinstance(packed, list):
        return [unpack(item, get_blob) for item in packed]
    if not isinstance(packed, dict):
        return packed
    mark = next((key for key in packed if key.startswith("@")), None)
    if mark is None:
        return {key: unpack(item, get_blob) for key, item in packed.items()}
    if mark in ("@tensor", "@fill"):
        return _unpack_tensor(packed, get_blob)
    inner = unpack(packed[mark], get_blob)
    if mark == "@tuple" and isinstance(inner, list):
        return tuple(inner)
    if mark == "@nested" and isinstance(inner, list):
        from comfy.nested_tensor import NestedTensor

        return NestedTensor(inner)
    if mark == "@clip_vision" and isinstance(inner, dict) and set(inner) <= set(CLIP_VISION_FIELDS):
        from comfy.clip_vision import Output

        output = Output()
        for name, item in inner.items():
            setattr(output, name, item)
        return output
    raise BlobError(f"{mark[:40]!r} is no mark of a value")


def _unpack_tensor(packed: dict, get_blob: Callable[[str], bytes]) -> torch.Tensor:
    dtype, shape = DTYPES.get(str(packed.get("dtype"))), packed.get("shape")
    if dtype is None:
        raise BlobError(f"the dtype {str(packed.get('dtype'))[:40]!r} is none of {', '.join(DTYPES)}")
    check_shape(shape)
    if "@fill" in packed:
        return restore(Shrunk(None, packed["@fill"], None), dtype, shape)
    if not is_blob_name(packed["@tensor"]):
        raise BlobError("a blob's name is 64 hexadecimal digits")
    return restore(Shrunk(blob_tensor(get_blob(packed["@tensor"])), None, packed.get("rows")), dtype, shape)
