"""Receive: the node in the place of a link that the client has cut."""

import json
from typing import Any

import torch
from comfy_api.latest import io

from ..wire.values import unpack
from .folder import blob_path


class VelocityReceive(io.ComfyNode):
    """Unpacks what a client sent. Equal content is an equal input, so ComfyUI's cache holds from job to job."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityReceive",
            display_name="Receive",
            category="Velocity/worker",
            inputs=[io.String.Input("value", tooltip="A list of packed values as JSON.")],
            outputs=[io.AnyType.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        """Return the list of items. Raises `ValueError` for numbers that are not finite."""
        items = unpack(json.loads(value), _read_blob)
        for item in items:
            check_finite(item, "what the client sent")
        return io.NodeOutput(items)


def _read_blob(name: str) -> bytes:
    return blob_path(name).read_bytes()


def check_finite(value: Any, what: str) -> None:
    """Raise `ValueError` if a tensor somewhere in `value` holds numbers that are not finite."""
    if isinstance(value, torch.Tensor):
        if value.dtype.is_floating_point and not torch.isfinite(value.float()).all():
            raise ValueError(
                f"{what} holds numbers that are not finite (nan or infinity). A model that overflows in half "
                "precision does this: start ComfyUI with --bf16-unet or --fp32-unet, or change sampler and CFG"
            )
    elif isinstance(value, dict):
        for item in value.values():
            check_finite(item, what)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_finite(item, what)
    elif hasattr(value, "__dict__"):  # comfy.nested_tensor.NestedTensor, comfy.clip_vision.Output
        check_finite(vars(value), what)
