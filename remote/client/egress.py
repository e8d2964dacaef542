"""What left this machine for a job: one JSON file each in the private folder, and one honest sentence."""

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("velocity")
KEPT = 200
NAMED = {"pixels": "pixels", "prompt_text": "prompt text", "sound": "sound"}  # what a person would want to know of
NUMBERS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CAVEAT = (
    "Latents and embeddings are not encryption: whoever holds them can decode the latent with the public VAE, and "
    "guess at the prompt from its embedding."
)


def describe(
    cuts: list[tuple[str, Any]], sizes: dict[str, int], sent: set[str], named: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return the manifest of what was sent: `cuts` are (type, packed value), `sizes` the bytes of each blob by name,
    `sent` those that the endpoint did not have yet, `named` the inputs with each of `NAMED`."""
    found = {key: list(named.get(key, ())) for key in NAMED}
    tensors = []
    for kind, packed in cuts:
        mixed = kind in ("CONDITIONING", "LATENT")  # whose content the type does not tell
        for path, entry in _found(packed, ""):
            if isinstance(entry, str):
                if mixed:
                    found["prompt_text"].append(f"{kind} {path}")
                continue
            name = entry.get("@tensor")
            wrong = kind in NUMBERS  # a node that gives what it does not say: nobody knows what it shows
            if name and (wrong or (mixed and _shows_a_picture(kind, path, entry["shape"]))):
                found["pixels"].append(f"{kind} {path}")
            tensors.append(
                {
                    "type": kind,
                    "path": path,
                    "dtype": entry["dtype"],
                    "shape": entry["shape"],
                    "bytes": sizes[name] if name else 0,
                    "sha256": name,
                    "sent": name is None or name in sent,
                }
            )
    return {"tensors": tensors, **found, "caveat": CAVEAT}


def statement(manifest: dict[str, Any]) -> str:
    """Return the sentence about pixels, prompt text and sound."""
    found = [f"{what} ({', '.join(manifest[key])})" if manifest[key] else f"no {what}" for key, what in NAMED.items()]
    return ", ".join(found)


def new_file(folder: Path, name: str) -> Path:
    """Return the path of another manifest in `folder`/egress; `name` ends its name, after the time."""
    return folder / "egress" / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}.json"


def write(file: Path, manifest: dict[str, Any]) -> bool:
    """Write a manifest, also in place of its earlier form, delete the oldest ones, and return whether that worked."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for old in sorted(file.parent.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:  # a full disk must not cost the picture
        log.warning("Offload: what was sent is not listed, %s can't be written: %s", file, error)
        return False
    return True


def _shows_a_picture(kind: str, path: str, shape: list[int]) -> bool:
    """Whether a tensor within conditioning or a latent is a drawn mask or pixels: some nodes put them there, and the
    latents of some models are pixels (three channels). An attention mask says which tokens see which."""
    drawn = "pixels" in path or ("mask" in path and not path.endswith("attention_mask"))
    return drawn or (kind == "LATENT" and len(shape) == 4 and shape[1] == 3)


def _found(packed: Any, path: str) -> list[tuple[str, dict | str]]:
    """Return the tensors, and the texts of more than one word, with where they are."""
    if isinstance(packed, dict):
        if "@tensor" in packed or "@fill" in packed:
            return [(path, packed)]
        return [found for key, item in packed.items() for found in _found(item, f"{path}.{key}".lstrip("."))]
    if isinstance(packed, list):
        return [found for index, item in enumerate(packed) for found in _found(item, f"{path}[{index}]")]
    return [(path, packed)] if isinstance(packed, str) and " " in packed.strip() else []
