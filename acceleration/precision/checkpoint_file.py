"""A model file on disk: its tensors' names, shapes and dtypes at once, their values one at a time.

A safetensors file is opened anew for each tensor, so neither its memory nor the pages that the system maps for it add
up to a second model. Other formats are read as a whole by core's own loader.
"""

from pathlib import Path

import torch

SAFETENSORS = (".safetensors", ".sft")


class CheckpointFile:
    """`shapes` maps each name to a tensor of zeros with the right shape and dtype that takes no memory; `metadata` is
    the header's. Raises ValueError for a file that is damaged or of another format."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] | None = None
        if Path(path).suffix.lower() in SAFETENSORS:
            self.shapes = self._read_header()
        else:
            self._tensors = _load_whole(path)
            self.shapes = {name: stand_in(tensor) for name, tensor in self._tensors.items()}

    def take(self, name: str) -> torch.Tensor:
        """Return a tensor's values; from a file that was read as a whole, once."""
        if self._tensors is not None:
            return self._tensors.pop(name)
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(name)

    def _read_header(self) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                self.metadata = file.metadata() or {}
                return {name: stand_in(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is no complete safetensors file ({error}); download it again and compare its size with "
                "the one its page states"
            ) from error


def stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """Return zeros of the same shape and dtype that take no memory."""
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


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
