"""One real endpoint and one real ComfyUI for all tests here; tests that break the endpoint leave it running."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_rig import Rig  # noqa: E402
from fault_setup import ENDPOINT_ARGUMENTS, private_node, write_keys  # noqa: E402

from dev.endpoint import Endpoint  # noqa: E402
from dev.server import ComfyServer  # noqa: E402


@pytest.fixture(scope="session")
def running_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The endpoint with its worker, and the ComfyUI that uses it as `default`."""
    endpoint = Endpoint(arguments=ENDPOINT_ARGUMENTS)
    write_keys(endpoint)
    client = ComfyServer(extra_args=private_node(tmp_path_factory.mktemp("packs")))
    with ThreadPoolExecutor() as pool:
        starting = [pool.submit(one.__enter__) for one in (endpoint, client)]
    try:
        for start in starting:
            start.result()
        rig = Rig(endpoint, client)
        rig.connect("default", endpoint.url)
        yield rig
    finally:
        client.stop()
        endpoint.__exit__(None, None, None)


@pytest.fixture
def rig(running_rig: Rig) -> Iterator[Rig]:
    """The same, and after each test: no job is left, and a next one runs."""
    yield running_rig
    running_rig.assert_free()
