"""Models that are loaded before a job needs them: `--preload`, and the file of the next job's model."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger("velocity")

# The loader of each folder whose models are sampled, the name of its input, and other inputs it needs.
_LOADERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "diffusion_models": ("UNETLoader", "unet_name", {"weight_dtype": "default"}),
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name", {}),
}
_PIECE = 16 << 20


def preload_prompt(name: str, about: dict[str, Any]) -> dict[str, Any] | None:
    """Return a prompt that loads the model `name`, as a job's own loader would; None if there is no such model."""
    for folder, (loader, input_name, others) in _LOADERS.items():
        if name in about["models"].get(folder, {}):
            inputs = {input_name: name, **others}
            return {
                "loader": {"class_type": loader, "inputs": inputs},
                "warm": {"class_type": "VelocityWarm", "inputs": {"model": ["loader", 0]}},
            }
    log.warning(
        "--preload %s: there is no such file in %s; the names are as in ComfyUI's lists", name, " or ".join(_LOADERS)
    )
    return None


class FileReader:
    """Reads model files into the system's file cache, one at a time, while a worker computes something else."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._task: asyncio.Future | None = None
        self._read: set[str] = set()

    def read(self, path: str) -> None:
        """Read a file in the background, once, if half of the free memory holds it and nothing is being read."""
        busy = self._task is not None and not self._task.done()
        if busy or path in self._read:
            return
        self._read.add(path)
        self._task = asyncio.get_running_loop().run_in_executor(None, _read, Path(path), self._stop)

    def stop(self) -> None:
        """Stop to read."""
        self._stop.set()


def _read(path: Path, stop: threading.Event) -> None:
    try:
        if path.stat().st_size > free_memory() // 2:
            return
        with path.open("rb", buffering=0) as file:
            while not stop.is_set() and file.read(_PIECE):
                pass
    except OSError as error:
        log.info("could not read %s ahead: %s", path, error)


def free_memory() -> int:
    """Return the bytes of memory that are free or easily freed, 0 if that is not known."""
    try:
        import psutil

        return psutil.virtual_memory().available
    except ImportError:
        pass
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
