"""What this endpoint can do, as `GET /v1/capabilities` says it."""

import dataclasses
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from ..settings import Settings


def capabilities(about: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the part that does not change while the workers run. `about` is the answer of a worker."""
    return {
        "protocol": 1,
        "pack": pack_version(),
        "fingerprint": about["fingerprint"],
        "node_classes": sorted({*about["allowed"], *settings.allow}.difference(unknown_allowed(about, settings))),
        "models": {
            folder: {name: size for name, (size, _, _) in files.items()}
            for folder, files in about["models"].items()
            if files
        },
        "limits": dataclasses.asdict(settings.limits),
        "batching": True,
    }


def unknown_allowed(about: dict[str, Any], settings: Settings) -> list[str]:
    """Return the names that the operator allows and the worker does not have."""
    return [name for name in settings.allow if name not in about["classes"]]


def pack_version() -> str:
    """Return the version of this pack, installed or as a folder."""
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if project.is_file():
        found = re.search(r'^version = "(.*)"', project.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    try:
        return metadata.version("velocity-nodes")
    except metadata.PackageNotFoundError:
        return "unknown"


def find_model(about: dict[str, Any], name: str) -> tuple[str, str] | None:
    """Return `(folder/name, absolute path)` of a model by the name that a node would be given."""
    for folder, files in about["models"].items():
        if name in files:
            return f"{folder}/{name}", files[name][2]
    return None


def known_names(about: dict[str, Any]) -> frozenset[str]:
    """Return all model names of a worker."""
    return frozenset(name for files in about["models"].values() for name in files)
