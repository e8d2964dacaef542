"""The model files that a graph names, as far as this machine has them."""

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

from .history import History


def find_models(names: Iterable[str]) -> dict[str, Path]:
    """Return the paths of those that are in one of ComfyUI's model folders.

    An empty file only stands for a model that is elsewhere: ComfyUI wants the name in its list.
    """
    import folder_paths

    found = {}
    for name in names:
        for folder in folder_paths.folder_names_and_paths:
            path = folder_paths.get_full_path(folder, name)
            if path is not None and Path(path).stat().st_size:
                found[name] = Path(path)
                break
    return found


def start_hashing(paths: dict[str, Path], folder: Path) -> threading.Thread:
    """Compute in the background the sha256 of the files that `History(folder)` has none of, and keep them there.

    It takes about a second for a gigabyte, and goes on when the job is done before.
    """
    name = f"velocity-hash {sorted(paths)}"
    running = [thread for thread in threading.enumerate() if thread.name == name]
    thread = running[0] if running else threading.Thread(target=_hash, args=(paths, folder), name=name, daemon=True)
    if not running:
        thread.start()
    return thread


def _hash(paths: dict[str, Path], folder: Path) -> None:
    for path in paths.values():
        if History(folder).file_hash(path) is None:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
            history = History(folder)
            history.record_hash(path, digest.hexdigest())
            history.save()
