"""A real ComfyUI and a real browser. Without a browser CI fails; a developer's machine skips, and says what to do."""

import os
from collections.abc import Iterator

import pytest

from demo.together import SERVER_OPTIONS
from dev.frontend import find_browser
from dev.server import ComfyServer
from dev.workflow_graphs import MODELS


@pytest.fixture(scope="session")
def server() -> Iterator[ComfyServer]:
    """A ComfyUI whose loaders list the models that the shipped workflows name; those files are empty."""
    if find_browser() is None:
        reason = "no Chromium found: install chromium, or name one in VELOCITY_CHROMIUM"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with ComfyServer(extra_args=SERVER_OPTIONS) as running:  # a demo workflow compiles
        for file, (folder, _) in MODELS.items():
            (running.folder / "models" / folder).mkdir(exist_ok=True)
            (running.folder / "models" / folder / file).touch()
        yield running
