"""Where the endpoint keeps blobs and expects results."""

import os
from pathlib import Path

# Set only by `velocity serve`: its data folder, and how many bytes a result may have.
FOLDER_VARIABLE, RESULT_VARIABLE = "VELOCITY_WORKER_FOLDER", "VELOCITY_WORKER_RESULT_BYTES"


def blob_path(name: str) -> Path:
    """Return the file of a blob. `name` has been checked to be 64 hexadecimal digits."""
    return _folder() / "blobs" / name[:2] / name


def result_path(name: str) -> Path:
    """Return the file of a result. Raises `ValueError` for a name that is more than a file's."""
    if not name.replace("-", "").replace(".", "").isalnum() or name.startswith("."):
        raise ValueError(f"{name!r} is no name of a result")
    return _folder() / "results" / f"{name}.bin"


def most_result_bytes() -> int:
    """Return how large a result may be."""
    return int(os.environ[RESULT_VARIABLE])


def _folder() -> Path:
    return Path(os.environ[FOLDER_VARIABLE])
