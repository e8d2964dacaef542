"""One endpoint and one ComfyUI that uses it, in processes of their own, for all tests of this folder."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.endpoint import Endpoint
from dev.server import DEMO_PACK, PACK_FOLDER, ComfyServer
from dev.tiny_side_models import write_models, write_paths

HERE = Path(__file__).parent
TEST_NODES = "offload_test_nodes"
sys.path.insert(0, str(HERE))  # the helper modules beside the tests


@pytest.fixture(scope="session")
def side_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What names the folders of ControlNets, VAEs and others, which both sides have."""
    folder = tmp_path_factory.mktemp("side_models")
    write_models(folder)
    return write_paths(folder)


@pytest.fixture(scope="session")
def endpoint(side_models: Path) -> Iterator[Endpoint]:
    """A `velocity serve` with the tiny model on the CPU."""
    with Endpoint(comfyui_arguments=["--extra-model-paths-config", str(side_models)]) as running:
        yield running


@pytest.fixture(scope="session")
def client(endpoint: Endpoint, side_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """The user's ComfyUI; its endpoint `default` is `endpoint`. It also has the nodes of `pack/`."""
    paths = tmp_path_factory.mktemp("client") / "paths.yaml"
    paths.write_text(json.dumps({"tests": {"custom_nodes": str(HERE / "pack")}}), encoding="utf-8")
    arguments = ["--extra-model-paths-config", str(side_models), str(paths)]
    arguments += ["--whitelist-custom-nodes", PACK_FOLDER, DEMO_PACK.name, TEST_NODES]
    with ComfyServer(extra_args=arguments) as running:
        endpoint.connect(running)
        yield running
