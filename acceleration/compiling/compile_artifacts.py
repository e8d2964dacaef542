"""Keeps what torch.compile made, so that the next start of ComfyUI, or another machine like this one, need not.

Two things lie in ComfyUI's user directory: inductor's own caches, and one file for each kind of model, device and
versions with all of it (torch.compiler.save_cache_artifacts), which fills the caches of a machine that has none.
"""

import hashlib
import json
import logging
import os
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher

from .vector_units import find_vector_units

log = logging.getLogger("velocity")

MAGIC = b"velocity compile artifacts 1\n"
LARGEST_FILE = 1 << 30  # bytes
LARGEST_FOLDER = 4 << 30  # bytes, of everything kept
CACHES = "TORCHINDUCTOR_CACHE_DIR"


class Artifacts:
    """The file and the caches for one kind of model on this machine."""

    def __init__(self, folder: Path, key: dict[str, str]) -> None:
        """`key` names everything that compiled code depends on beside the code itself."""
        self.folder, self.key = folder, key
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self.file = folder / f"{key['model']}-{digest}.bin"
        self.caches = inductor_folder(folder)

    @classmethod
    def of(cls, model: ModelPatcher) -> "Artifacts":
        """Return the artifacts of a model, in ComfyUI's user directory."""
        import folder_paths

        return cls(Path(folder_paths.get_system_user_directory("velocity")) / "compile", artifact_key(model))

    def load(self) -> None:
        """Let inductor use our folder, and fill it from the file if it is empty. Never raises for a bad file."""
        from torch._inductor.runtime.cache_dir_utils import default_cache_dir

        caches = Path(os.environ.get(CACHES, default_cache_dir()))
        # Otherwise it is the user's choice, or ours from the run before. Inductor hands paths to g++ unquoted.
        if caches == Path(default_cache_dir()) and " " not in str(self.caches):
            caches = self.caches
            os.environ[CACHES] = str(caches)
        if self.key.get("device") == "cpu":
            find_vector_units()
        if (caches / "fxgraph").exists() or not self.file.exists():
            return
        payload = self._read()
        if payload is None:
            return
        # Importing these registers the kinds of artifacts; without it they would be left out silently.
        import torch._dynamo.pgo
        import torch._functorch._aot_autograd.autograd_cache
        import torch._inductor.codecache  # noqa: F401

        try:
            if torch.compiler.load_cache_artifacts(payload) is None:
                raise ValueError("torch can't read it")
        except Exception as error:  # a foreign byte in a pickle can raise anything
            log.warning("Compile Model+: %s can't be used and is ignored: %s", self.file.name, error)

    def save(self) -> None:
        """Write everything that this process has compiled. Never raises: a full disk costs the next start time."""
        try:
            made = torch.compiler.save_cache_artifacts()
            if made is None:
                return
            payload = made[0]
            if len(payload) > LARGEST_FILE:
                log.warning("Compile Model+: %d MiB of artifacts are too large to keep", len(payload) >> 20)
                return
            header = {"key": self.key, "sha256": hashlib.sha256(payload).hexdigest()}
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.file.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(MAGIC + json.dumps(header).encode() + b"\n" + payload)
            part.replace(self.file)
            for folder in {self.folder, self.caches}:
                remove_oldest(folder, LARGEST_FOLDER)
        except (OSError, RuntimeError) as error:
            log.warning("Compile Model+: the compiled code could not be kept for the next start: %s", error)

    def _read(self) -> bytes | None:
        """Return the file's payload, or None for one that is damaged or not ours, with a log line."""
        try:
            data = self.file.read_bytes()
            if not data.startswith(MAGIC):
                raise ValueError("it is no file of Compile Model+")
            head, _, payload = data[len(MAGIC) :].partition(b"\n")
            header = json.loads(head)
            if header["key"] != self.key:
                raise ValueError("it was made for another model, device or version")
            if hashlib.sha256(payload).hexdigest() != header["sha256"]:
                raise ValueError("it is damaged")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("Compile Model+: %s is ignored: %s", self.file.name, error)
            return None
        return payload


def artifact_key(model: ModelPatcher) -> dict[str, str]:
    """Return what compiled code depends on: versions, device, architecture, types and attention."""
    from comfy.ldm.modules.attention import optimized_attention

    device = model.load_device
    cuda = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if cuda else torch.backends.cpu.get_cpu_capability()
    weights = {_kind(weight) for weight in model.model.diffusion_model.parameters()}
    return {
        "model": type(model.model.diffusion_model).__name__,
        "torch": torch.__version__,
        "triton": _version("triton", "triton-windows", "pytorch-triton-rocm"),
        "kitchen": _version("comfy-kitchen"),
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "capability": str(capability),
        "weights": ", ".join(sorted(weights)),
        "compute": str(model.model.manual_cast_dtype),
        "attention": optimized_attention.__name__,
    }


def inductor_folder(folder: Path, system: str = sys.platform) -> Path:
    """Return where inductor's caches go: below our `folder`, but nearer to the root of the disk on Windows.

    There a path may have 259 characters, and the longest of Triton's have more than 200 below this one.
    """
    if system != "win32":
        return folder / "inductor"
    return Path(os.environ.get("LOCALAPPDATA") or tempfile.gettempdir()) / "ComfyVelocity"


def remove_oldest(folder: Path, limit: int) -> None:
    """Delete the files of `folder` that were not used for longest until the rest is at most `limit` bytes."""
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    excess = sum(stat.st_size for _, stat in files) - limit
    for path, stat in sorted(files, key=lambda item: item[1].st_mtime):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size


def _kind(weight: torch.Tensor) -> str:
    """Return the type of a weight; for a quantised one the layout that says how it is stored and multiplied, too."""
    layout = getattr(weight, "_layout_cls", None)
    return f"{weight.dtype} in {layout}" if layout else str(weight.dtype)


def _version(*names: str) -> str:
    """Return the version of the first of these packages that is installed, or nothing."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
