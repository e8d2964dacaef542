"""Python values as JSON plus blobs, without pickle: what conditioning, latents and other plain data are made of.

A dict with one key that begins with `@` stands for something that JSON lacks:

    {"@tensor": name, "dtype": "float32", "shape": [1, 512, 4096], "rows": 60}   a blob; see `lossless`
    {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 64, 64]}                 every element is the same: no blob
    {"@tuple": [...]}, {"@nested": [tensors]}, {"@clip_vision": {...}}

Tensors come back bit for bit, on the CPU, in their own dtype and shape, and in memory as they were (`layout`): where
the dimensions do not lie in the order of `shape`, `"order": [0, 3, 1, 2]` names them from the outermost in, and
`"repeated": [3]` those that have one item in memory. The blob and `rows` are of the shape in memory.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from .blob import BlobError, check_shape, is_blob_name
from .grammar import CLIP_VISION_FIELDS, MAX_DEPTH
from .layout import put_back, read_layout, take_out
from .lossless import DTYPES, SAFETENSORS_NAMES, Shrunk, restore, shrink
from .tensor_blob import blob_tensor, tensor_blob

MAX_BYTES = 4 << 30  # of the tensors of one value


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
        if type(value) in (list, tuple, torch.Size):
            items = [self.pack(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
            return items if type(value) is list else {"@tuple": items}
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
            return {"@nested": [self._nested(item, f"{path}.tensors[{i}]") for i, item in enumerate(value.tensors)]}
        if kind == "comfy.clip_vision.Output":
            unknown = sorted(set(vars(value)).difference(CLIP_VISION_FIELDS))
            if unknown:
                raise UnshippableError(path, f"what a vision encoder says in {', '.join(unknown)}")
            return {"@clip_vision": self._dict(vars(value), path, depth)}
        raise UnshippableError(path, f"a live object ({kind})")

    def _nested(self, item: Any, path: str) -> dict:
        if not isinstance(item, torch.Tensor):
            raise UnshippableError(path, f"a {type(item).__name__} among nested tensors")
        return self._tensor(item, path)

    def _tensor(self, tensor: torch.Tensor, path: str) -> dict:
        if tensor.layout != torch.strided or tensor.dtype not in SAFETENSORS_NAMES or tensor.is_meta:
            raise UnshippableError(path, f"a tensor of {tensor.dtype}, {tensor.layout}, {tensor.device}")
        # torch has no isfinite for 8-bit floats, and float() would overflow for 64-bit ones.
        finite = torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor)
        if not finite.all():
            raise UnshippableError(path, "a tensor with numbers that are not finite")
        data, layout = take_out(tensor)
        shrunk = shrink(data)
        entry = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), **layout.fields()}
        if shrunk.fill is not None:
            return {"@fill": shrunk.fill, **entry}
        if shrunk.rows is not None:
            entry["rows"] = shrunk.rows
        return {"@tensor": self.add_blob(tensor_blob(shrunk.data)), **entry}


def unpack(packed: Any, get_blob: Callable[[str], bytes], max_bytes: int = MAX_BYTES) -> Any:
    """Return the value that `pack` was given; `get_blob` returns the bytes of a blob by its name.

    Raises `BlobError` for what `pack` does not write, for a blob that `get_blob` has not (`KeyError`), and, before
    they are made, for tensors of more than `max_bytes` in all.
    """
    return _Unpacker(get_blob, max_bytes).unpack(packed, 0)


class _Unpacker:
    def __init__(self, get_blob: Callable[[str], bytes], max_bytes: int) -> None:
        self.get_blob, self.bytes_left = get_blob, max_bytes

    def unpack(self, packed: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise BlobError(f"a value is nested more than {MAX_DEPTH} deep")
        if isinstance(packed, float) and not math.isfinite(packed):
            raise BlobError(f"the number {packed} is not finite")
        if isinstance(packed, list):
            return [self.unpack(item, depth + 1) for item in packed]
        if not isinstance(packed, dict):
            return packed
        mark = next((key for key in packed if key.startswith("@")), None)
        if mark is None:
            return {key: self.unpack(item, depth + 1) for key, item in packed.items()}
        if mark in ("@tensor", "@fill"):
            return self._tensor(packed)
        return self._object(mark, packed[mark], depth)

    def _object(self, mark: str, inner: Any, depth: int) -> Any:
        if mark == "@tuple" and isinstance(inner, list):
            return tuple(self.unpack(inner, depth))
        if mark == "@nested" and isinstance(inner, list):
            from comfy.nested_tensor import NestedTensor

            return NestedTensor([self._tensor(item) for item in inner])
        if mark == "@clip_vision" and isinstance(inner, dict) and set(inner) <= set(CLIP_VISION_FIELDS):
            from comfy.clip_vision import Output

            output = Output()
            for name, item in self.unpack(inner, depth).items():
                setattr(output, name, item)
            return output
        raise BlobError(f"{mark[:40]!r} is no mark of a value")

    def _tensor(self, entry: Any) -> torch.Tensor:
        if not isinstance(entry, dict) or not ("@tensor" in entry or "@fill" in entry):
            raise BlobError("a tensor was announced, and there is none")
        dtype, shape = DTYPES.get(str(entry.get("dtype"))), entry.get("shape")
        if dtype is None:
            raise BlobError(f"the dtype {str(entry.get('dtype'))[:40]!r} is none of {', '.join(DTYPES)}")
        check_shape(shape)
        self.bytes_left -= math.prod(shape) * dtype.itemsize
        if self.bytes_left < 0:
            raise BlobError(f"the tensors of a value have more bytes than are allowed, at one of shape {shape}")
        layout, in_memory = read_layout(entry)
        if "@fill" in entry:
            return put_back(restore(Shrunk(None, entry["@fill"], None), dtype, in_memory), layout, shape)
        name = entry["@tensor"]
        if not is_blob_name(name):
            raise BlobError("a blob's name is 64 hexadecimal digits")
        try:
            data = self.get_blob(name)
        except KeyError as error:
            raise BlobError(f"the blob {name} is not there") from error
        shrunk = Shrunk(blob_tensor(data), None, entry.get("rows"))
        return put_back(restore(shrunk, dtype, in_memory), layout, shape)
