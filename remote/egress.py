"""What left this machine for a job: one JSON file each in the private folder, and one honest sentence."""

import json
import time
from pathlib import Path
from typing import Any

KEPT = 200
CAVEAT = (
    "Latents and embeddings are not encryption: whoever holds them can decode the latent with the public VAE, and "
    "guess at the prompt from its embedding."
)


def describe(
    cuts: list[tuple[str, Any]], sizes: dict[str, int], sent: set[str], prompt_text: list[str], pixels: list[str]
) -> dict[str, Any]:
    """Return the manifest of what was sent: `cuts` are (type, packed value), `sizes` the bytes of each blob by name,
    `sent` those that the endpoint did not have yet."""
    tensors = []
    for kind, packed in cuts:
        for path, entry in _tensors(packed, ""):
            name = entry.get("@tensor")
            size = sizes[name] if name else 0
            tensors.append(
                {
                    "type": kind,
                    "path": path,
                    "dtype": entry["dtype"],
                    "shape": entry["shape"],
                    "bytes": size,
                    "sha256": name,
                    "sent": name in sent,
                }
            )
    return {"tensors": tensors, "prompt_text": prompt_text, "pixels": pixels, "caveat": CAVEAT}


def statement(manifest: dict[str, Any]) -> str:
    """Return the sentence about pixels and prompt text."""
    found = [
        f"{what} ({', '.join(manifest[key])})" if manifest[key] else f"no {what}"
        for key, what in (("pixels", "pixels"), ("prompt_text", "prompt text"))
    ]
    return ", ".join(found)


def write(folder: Path, manifest: dict[str, Any], job: str) -> Path:
    """Write the manifest into `folder`/egress, and delete the oldest ones there."""
    folder = folder / "egress"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{job}.json"
    file.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for old in sorted(folder.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return file


def _tensors(packed: Any, path: str) -> list[tuple[str, dict]]:
    if isinstance(packed, dict):
        if "@tensor" in packed or "@fill" in packed:
            return [(path, packed)]
        return [found for key, item in packed.items() for found in _tensors(item, f"{path}.{key}".lstrip("."))]
    if isinstance(packed, list):
        return [found for index, item in enumerate(packed) for found in _tensors(item, f"{path}[{index}]")]
    return []
