"""pytest plugin (`-p tests.numerics.pytorch_attention`): ComfyUI as it is after --use-pytorch-cross-attention.

torch.compile can follow no other attention of the CPU, and core chooses when it is imported.
"""

from collections.abc import Iterator

import pytest

from dev.host import import_comfyui

import_comfyui()

import comfy.cli_args  # noqa: E402
import torch  # noqa: E402

comfy.cli_args.args.use_pytorch_cross_attention = True


@pytest.fixture(autouse=True, scope="module")
def inference_mode() -> Iterator[None]:
    """ComfyUI runs every node in it, and torch.compile guards on it."""
    with torch.inference_mode():
        yield
