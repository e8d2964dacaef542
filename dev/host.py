"""ComfyUI and this pack inside the current Python process, for tests and benchmarks that need no server."""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACK = "velocity_nodes"


def import_comfyui() -> Path:
    """Make `import comfy` find the ComfyUI that `COMFYUI_PATH` names, on the CPU unless `VELOCITY_DEVICE=cuda`.

    Raises `RuntimeError` when there is none: a test that silently skips its host proves nothing.
    """
    path = Path(os.environ.get("COMFYUI_PATH", ""))
    if not (path / "comfy").is_dir():
        raise RuntimeError("COMFYUI_PATH names no ComfyUI; run through `python -m nox`, which sets it")
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))
        import comfy.cli_args

        comfy.cli_args.args.cpu = os.environ.get("VELOCITY_DEVICE", "cpu") == "cpu"
        logging.getLogger().setLevel(logging.WARNING)
    return path


def import_pack() -> ModuleType:
    """Load the pack the way ComfyUI does, by path, under the fixed name `velocity_nodes`, and return it."""
    if PACK not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK]
