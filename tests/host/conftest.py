"""One ComfyUI process for all tests of this folder. It must start: a failure here fails every test that asks for it."""

from collections.abc import Iterator

import pytest

from dev.server import ComfyServer


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    """A ComfyUI with the pack and the demo pack installed."""
    with ComfyServer() as running:
        yield running
