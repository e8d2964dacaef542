"""Return: the node behind the output that the client asked for."""

import json
import os
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

from ..wire.blob import blob_name
from ..wire.container import write_container
from ..wire.values import pack
from .folder import most_result_bytes, result_path
from .receive import check_finite


class VelocityReturn(io.ComfyNode):
    """Writes its input as a result file. `job` differs from run to run, so that ComfyUI never skips the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Return the node's inputs and outputs."""
        return io.Schema(
            node_id="VelocityReturn",
            display_name="Return",
            category="Velocity/worker",
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.AnyType.Input("value", tooltip="What the client gets: all items of the output."),
                io.String.Input("job", tooltip="The name of the result file."),
                io.String.Input("sent", tooltip="The names of the blobs that the client has, as JSON."),
                io.Int.Input("index", default=-1, optional=True, tooltip="Return only this item; -1 for all."),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, value: list[Any], job: list[str], sent: list[str], index: Sequence[int] = (-1,)) -> io.NodeOutput:
        """Write the file under another name first.

        Raises `ValueError` for numbers that are not finite, and for more of them than the operator allows.
        """
        if index[0] >= 0:
            value = [value[index[0]]]
        check_finite(value, "the result")
        blobs: dict[str, bytes] = {}
        room = most = most_result_bytes()

        def add_blob(data: bytes) -> str:
            nonlocal room
            name = blob_name(data)
            if name not in blobs:
                room -= len(data)
            if room < 0:
                raise ValueError(
                    f"the result has more than the {most} bytes that the endpoint allows: make the batch or the "
                    "picture smaller, run it locally, or have the operator raise --max-result-bytes"
                )
            blobs[name] = data
            return name

        packed = pack(value, add_blob)
        path = result_path(job[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        try:
            with temporary.open("wb") as file:
                write_container(file, packed, blobs, frozenset(json.loads(sent[0])))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # of a full disk
        return io.NodeOutput()
