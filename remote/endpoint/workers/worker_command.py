"""How a worker is started: which GPUs there are, ComfyUI's command line and environment, this pack inside of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from ..settings import Settings

PACK = Path(__file__).resolve().parents[3]
SHIM = "velocity_endpoint"
WHITELIST = "--whitelist-custom-nodes"
CACHES = ("--cache", "--high-ram")  # beginnings of ComfyUI's options for its cache; it takes one of them only
# ComfyUI would stop at start without a GPU that its torch was built for; these say that there is another kind.
OTHER_DEVICES = ("--cpu", "--directml", "--oneapi-device-selector")
_SHIM_TEXT = '''"""Loads ComfyUI-Velocity from where `velocity serve` runs. Written by it at each start."""

import importlib.util
import sys

NAME, PACK = "velocity_nodes", {pack!r}
spec = importlib.util.spec_from_file_location(NAME, PACK + "/__init__.py", submodule_search_locations=[PACK])
module = importlib.util.module_from_spec(spec)
sys.modules[NAME] = module
spec.loader.exec_module(module)
comfy_entrypoint = module.comfy_entrypoint
'''


def gpus() -> list[str]:
    """Return the ids for CUDA_VISIBLE_DEVICES, one per NVIDIA GPU; none where there is no driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(len(re.findall(r"^GPU \d+", listing, re.MULTILINE)))]


def worker_command(settings: Settings, port: int, gpu: str | None) -> list[str]:
    """Return the command that starts ComfyUI on this loopback port, writing the shim if it has no pack of its own."""
    arguments = list(settings.comfyui_arguments)
    own = [settings.python, "main.py", "--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    own += ["--preview-method", "latent2rgb", "--database-url", "sqlite:///:memory:"]
    if not any(argument.startswith(CACHES) for argument in arguments):
        own += ["--cache-lru", "64"]  # keeps conditioning and models from job to job
    if gpu is None and not _has_other_device(arguments):
        own.append("--cpu")
    installed = _installed_pack(settings.comfyui, arguments)
    if installed is None:
        own += ["--extra-model-paths-config", str(_write_shim(settings.data / "workers" / "pack"))]
    if "--disable-all-custom-nodes" in arguments:
        arguments = _whitelisted(arguments, installed.name if installed else SHIM)
    return own + arguments


def worker_environment(settings: Settings, gpu: str | None) -> dict[str, str]:
    """Return the worker's environment: no keys of ours, one GPU, the data folder."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("VELOCITY_ENDPOINT", "VELOCITY_API_KEY"):
        environment.pop(name, None)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    environment["VELOCITY_WORKER_FOLDER"] = str(settings.data.resolve())
    environment["VELOCITY_WORKER_RESULT_BYTES"] = str(settings.limits.result_bytes)
    return environment


def _has_other_device(arguments: list[str]) -> bool:
    return (
        sys.platform == "darwin"
        or Path("/dev/kfd").exists()
        or any(argument.split("=")[0] in OTHER_DEVICES for argument in arguments)
    )


def _installed_pack(comfyui: Path, arguments: list[str]) -> Path | None:
    base = comfyui
    if "--base-directory" in arguments[:-1]:
        base = Path(arguments[arguments.index("--base-directory") + 1])
    for project in base.glob("custom_nodes/*/pyproject.toml"):
        if re.search(r'^name = "velocity-nodes"', project.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            return project.parent
    return None


def _write_shim(folder: Path) -> Path:
    """Write the pack that loads this one, and return ComfyUI's configuration that names its folder."""
    (folder / SHIM).mkdir(parents=True, exist_ok=True)
    (folder / SHIM / "__init__.py").write_text(_SHIM_TEXT.format(pack=PACK.as_posix()), encoding="utf-8")
    config = folder / "extra_model_paths.yaml"
    config.write_text(f"velocity:\n  custom_nodes: {json.dumps(str(folder.resolve()))}\n", encoding="utf-8")
    return config.resolve()


def _whitelisted(arguments: list[str], name: str) -> list[str]:
    """ComfyUI takes only the last list of its option, so the name joins the operator's own."""
    if WHITELIST not in arguments:
        return [*arguments, WHITELIST, name]
    last = len(arguments) - arguments[::-1].index(WHITELIST)
    return [*arguments[:last], name, *arguments[last:]]
