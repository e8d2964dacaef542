"""The manifests that the jobs are made of, and what an undisturbed run of each gives."""

import json
import random
from pathlib import Path

import torch
from endpoint_side import EndpointSide
from raw_protocol import tiny_job

SIDES = (0, 16, 48, 48)  # of the latent that is uploaded; 0 is an empty one, which needs no upload
MOST_STEPS = {0: 16, 16: 16, 48: 3}


def write_recipes(folder: Path, count: int, chance: random.Random) -> list[tuple[dict, dict[str, bytes]]]:
    """Write `count` different manifests and their blobs, and return them."""
    folder.mkdir()
    recipes = [_recipe(SIDES[number % len(SIDES)], chance) for number in range(count)]
    for name, data in (item for _, blobs in recipes for item in blobs.items()):
        (folder / f"{name}.blob").write_bytes(data)
    (folder / "manifests.json").write_text(json.dumps([manifest for manifest, _ in recipes]), encoding="utf-8")
    return recipes


def undisturbed(side: EndpointSide, recipes: list[tuple[dict, dict[str, bytes]]]) -> list[str]:
    """Return the sha256 of the result of each, run one after the other by nobody else's client."""
    hashes = []
    for manifest, blobs in recipes:
        end = side.raw.run(manifest, blobs)
        if end["state"] != "done":
            raise RuntimeError(f"the undisturbed run ended as {end}")
        hashes.append(end["result"]["sha256"])
        side.raw("DELETE", f"/v1/jobs/{end['job']}")
    return hashes


def _recipe(side: int, chance: random.Random) -> tuple[dict, dict[str, bytes]]:
    seed = chance.randrange(1 << 20)
    noise = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 16, side, side, generator=noise) if side else None
    return tiny_job(seed, chance.randint(1, MOST_STEPS[side]), latent)
