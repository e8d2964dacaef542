"""A model file on disk: its tensors' names, shapes and dtypes at once, their values one at a time.

Of a safetensors file the values are read when they are asked for. Other formats are read as a whole by core's loader.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from .read_ahead import Place, read_tensors

SAFETENSORS = (".safetensors", ".sft")


class CheckpointFile:
    """`shapes` maps each name to a tensor of zeros with the right shape and dtype that takes no memory; `metadata` is
    the header's. Raises ValueError for a file that is damaged or of another format."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._places: dict[str, Place] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        if Path(path).suffix.lower() in SAFETENSORS:
            self.shapes = self._read_header()
        else:
            self._tensors = _load_whole(path)
            self.shapes = {name: stand_in(tensor) for name, tensor in self._tensors.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each name and its values, in the order of the file.

        The values hold until the next ones are asked for. Of a file that was read as a whole each can be had once.
        """
        if not self._places:
            return ((name, self._tensors.pop(name)) for name in names)
        return read_tensors(self.path, (self._places[name] for name in names))

    def whole(self) -> dict[str, torch.Tensor]:
        """Return all tensors at once; of a safetensors file mapped, so the system can drop what it has of them."""
        return self._tensors or _load_whole(self.path)

    def _read_header(self) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                self.metadata = file.metadata() or {}
                shapes = {name: stand_in(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            self._places = _places(self.path, shapes)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is no complete safetensors file ({error}); download it again and compare its size with "
                "the one its page states"
            ) from error
        return shapes


def stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """Return zeros of the same shape and dtype that take no memory."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _places(path: str, shapes: dict[str, torch.Tensor]) -> dict[str, Place]:
    """Where each tensor is in a safetensors file whose header is right: 8 bytes of length, JSON, the tensors."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    places = {}
    for name, tensor in shapes.items():
        begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
        places[name] = Place(begin, end, name, tensor.shape, tensor.dtype)
    return places


def _load_whole(path: str) -> dict[str, torch.Tensor]:
    import comfy.utils

    try:
        loaded = comfy.utils.load_torch_file(path)
        tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # torch.load raises many kinds for a damaged or foreign file
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"ComfyUI can't read {path} ({reason}); download it again, as safetensors if there is one"
        ) from error
    return tensors
