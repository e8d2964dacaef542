"""How the endpoint and the user's ComfyUI of the fault tests are set up."""

import json
from pathlib import Path

from dev.endpoint import Endpoint
from dev.server import DEMO_PACK, PACK_FOLDER

ANNA, FORMER = "anna-s-key-for-tests", "a-key-that-has-expired"
STALL_SECONDS = 6
BLOB_BYTES = 20_000_000  # the endpoint's store
ENDPOINT_ARGUMENTS = ["--stall-seconds", str(STALL_SECONDS), "--blob-gigabytes", str(BLOB_BYTES / 1e9)]
ENDPOINT_ARGUMENTS += ["--rate", "1e6", "--burst", "1000000", "--key-share", "1"]


def write_keys(endpoint: Endpoint) -> None:
    """Give an endpoint that has not started two more keys, one of them expired."""
    file = endpoint.folder / "keys.json"
    keys = {"anna": {"key": ANNA}, "former": {"key": FORMER, "expires": "2020-01-01"}}
    file.write_text(json.dumps(keys), encoding="utf-8")
    endpoint.arguments += ["--keys", str(file)]


PRIVATE_NODE = """
class PrivateModelNode:
    CATEGORY, FUNCTION, RETURN_TYPES = "private", "run", ("MODEL",)
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def run(self, model):
        return (model,)


NODE_CLASS_MAPPINGS = {"PrivateModelNode": PrivateModelNode}
"""


def private_node(folder: Path) -> list[str]:
    """Write a pack with a node that no endpoint has; return the arguments with which ComfyUI loads it too."""
    (folder / "private_pack").mkdir()
    (folder / "private_pack" / "__init__.py").write_text(PRIVATE_NODE, encoding="utf-8")
    config = folder / "extra_model_paths.yaml"
    config.write_text(f"tests:\n  custom_nodes: {json.dumps(str(folder))}\n", encoding="utf-8")
    packs = [PACK_FOLDER, DEMO_PACK.name, "private_pack"]
    return ["--extra-model-paths-config", str(config), "--whitelist-custom-nodes", *packs]
