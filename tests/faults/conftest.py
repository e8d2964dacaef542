"""One real endpoint and one real ComfyUI for all tests here; tests that break the endpoint leave it running."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_rig import ENDPOINT_ARGUMENTS, Rig, write_keys  # noqa: E402

from dev.endpoint import Endpoint  # noqa: E402
from dev.server import ComfyServer  # noqa: E402


@pytest.fixture(scope="session")
def running_rig() -> Iterator[Rig]:
    """The endpoint with its worker, and the ComfyUI that uses it as `default`."""
    endpoint, client = Endpoint(arguments=ENDPOINT_ARGUMENTS), ComfyServer()
    write_keys(endpoint)
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
