"""The pack as an installed package: what the wheel holds, and that `velocity` starts from it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("acceleration", "nodes", "remote", "web")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_it_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("METADATA"))
        scripts = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    packed = {name for name in names if ".dist-info/" not in name}
    tracked = subprocess.run(
        ["git", "ls-files", "__init__.py", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    assert {f"velocity_nodes/{name}" for name in tracked if name and (ROOT / name).is_file()} <= packed
    assert {name.split("/")[1] for name in packed} == {"__init__.py", *FOLDERS}
    assert not [name for name in packed if "__pycache__" in name]
    assert "velocity = velocity_nodes.remote.endpoint.cli:main" in scripts
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    extra = "; extra == 'endpoint'"
    assert sorted(needed) == sorted(
        ["Requires-Dist: matplotlib"]
        + [f"Requires-Dist: {name}{extra}" for name in ("aiohttp", "fastapi", "prometheus-client", "uvicorn")]
    )


def test_the_command_starts_from_it_without_torch_or_comfyui(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMFYUI_PATH")}
    environment["PYTHONPATH"] = str(tmp_path)

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout

    assert "--comfyui PATH" in python("-m", "velocity_nodes.remote.endpoint", "serve", "--help")
    loaded = python("-c", "import sys, velocity_nodes.remote.endpoint.cli; print(*sys.modules)").split()
    assert "velocity_nodes.remote.endpoint.api.app" in loaded
    assert not {"torch", "comfy", "numpy", "folder_paths"} & set(loaded)
