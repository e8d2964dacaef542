"""The model files that a graph names, as far as this machine has them."""

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

from .history import History


def find_models(names: Iterable[str]) -> dict[str, Path]:
    """Return the paths of those that are in one of ComfyUI's model folders and can be read.

    An empty file only stands for a model that is elsewhere: ComfyUI wants the name in its list.
    """
    return {name: paths[0] for name in names if (paths := [path for path in _paths(name) if not problem(path)])}


def broken_models(names: Iterable[str]) -> dict[str, str]:
    """Return what is wrong with each of those that this machine has files of, and none that can be read.

    A name without any file is ComfyUI's to complain about, or no name of a model at all.
    """
    problems = {name: [problem(path) for path in _paths(name)] for name in names}
    return {name: found[0] for name, found in problems.items() if found and all(found)}


def problem(path: Path) -> str | None:
    """Return why a model file can't be loaded, None for one that can as far as its header tells."""
    if not path.stat().st_size:
        return "is an empty file on this machine"
    if path.suffix.casefold() in (".safetensors", ".sft"):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"is cut off or no safetensors file on this machine ({error})"
    return None


def _paths(name: str) -> list[Path]:
    import folder_paths

    found = (folder_paths.get_full_path(folder, name) for folder in folder_paths.folder_names_and_paths)
    return [Path(path) for path in found if path is not None]


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
