"""What an operator may set, and the limits that every request is held to."""

from dataclasses import dataclass, field
from pathlib import Path

GIGABYTE = 10**9


@dataclass(frozen=True)
class Limits:
    """What one request, one job and one key may ask for. Sizes in bytes."""

    body_bytes: int = 4 << 20  # of a manifest, unpacked
    blob_bytes: int = 2 << 30  # of one tensor
    total_bytes: int = 4 << 30  # of all tensors of a job
    tensors: int = 256
    nodes: int = 200
    cuts: int = 64
    steps: int = 1000
    queue: int = 256  # unfinished jobs of all keys together
    uploads: int = 32  # of them, jobs of one key whose tensors have not all come
    share: float = 0.25  # of what all keys have together, for one of several
    side: int = 16384  # width and height
    batch: int = 64
    frames: int = 1025
    string: int = 20000  # characters
    connections: int = 512  # open at once
    connections_per_address: int = 256
    result_bytes: int = 2 << 30  # of one job
    rate: float = 50.0  # requests per second and key
    burst: int = 500  # requests at once


@dataclass(frozen=True)
class Settings:
    """One endpoint. `workers` None means one per GPU, or one on the CPU; `python` runs ComfyUI."""

    comfyui: Path
    python: str
    data: Path
    host: str = "127.0.0.1"
    port: int = 8288
    workers: int | None = None
    allow: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    comfyui_arguments: tuple[str, ...] = ()
    stall_seconds: float = 600.0
    deadline_seconds: float = 3600.0
    keep_hours: float = 24.0
    blob_gigabytes: float = 20.0
    result_gigabytes: float = 20.0
    limits: Limits = field(default_factory=Limits)

    @property
    def results(self) -> Path:
        """The folder of the result files, `<job id>.bin`."""
        return self.data / "results"
