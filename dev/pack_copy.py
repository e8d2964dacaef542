"""Install the pack as a user gets it: the files git knows, less what `.comfyignore` lists, as plain copies."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def install_pack(target: Path) -> None:
    """Copy the pack into the new folder `target`. Raises `RuntimeError` when this is not a git checkout."""
    for name in pack_files():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)


def pack_files() -> list[str]:
    """Return the relative paths (with forward slashes) of the shipped files: tracked, and new but not ignored."""
    known = _git("--cached", "--others", "--exclude-standard")
    unwanted = set()
    for kind in ("--cached", "--others"):
        unwanted.update(_git(kind, "--ignored", "--exclude-from=.comfyignore"))
    return [name for name in known if name not in unwanted and (ROOT / name).is_file()]


def _git(*options: str) -> list[str]:
    try:
        listing = subprocess.run(["git", "ls-files", "-z", *options], cwd=ROOT, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", b"").decode(errors="replace")
        raise RuntimeError(
            f"git could not list the pack's files ({error} {detail}): install git and work in a clone of the repository"
        ) from error
    return sorted(set(listing.stdout.decode("utf-8").split("\0")) - {""})
