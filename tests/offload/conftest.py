"""One endpoint and one ComfyUI that uses it, in processes of their own, for all tests of this folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.endpoint import Endpoint
from dev.server import ComfyServer

sys.path.insert(0, str(Path(__file__).parent))  # the helper modules beside the tests


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Endpoint]:
    """A `velocity serve` with the tiny model on the CPU."""
    with Endpoint() as running:
        yield running


@pytest.fixture(scope="session")
def client(endpoint: Endpoint) -> Iterator[ComfyServer]:
    """The user's ComfyUI; its endpoint `default` is `endpoint`."""
    with ComfyServer() as running:
        endpoint.connect(running)
        yield running
