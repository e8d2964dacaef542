"""ComfyUI's own check of the prompts that jobs become, as a worker makes it, in a place where every model is there."""

import asyncio
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from velocity_nodes.remote.endpoint.workers.compose import compose
from velocity_nodes.remote.wire.model_names import MODEL_SUFFIXES
from velocity_nodes.remote.worker.receive import VelocityReceive
from velocity_nodes.remote.worker.send_back import VelocityReturn


class Validation:
    """A context manager around model folders that all have empty files of these `names`."""

    def __init__(self, classes: dict[str, type], names: Iterable[str]) -> None:
        self.classes, self.names = classes, sorted(set(names))

    def __enter__(self) -> "Validation":
        import folder_paths

        import nodes

        self.folder = tempfile.TemporaryDirectory()
        self.before = dict(folder_paths.folder_names_and_paths), dict(nodes.NODE_CLASS_MAPPINGS)
        for name in self.names:
            file = Path(self.folder.name, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        for kind in folder_paths.folder_names_and_paths:
            folder_paths.folder_names_and_paths[kind] = ([self.folder.name], set(MODEL_SUFFIXES))
        folder_paths.filename_list_cache.clear()
        own = {node.GET_SCHEMA().node_id: node for node in (VelocityReceive, VelocityReturn)}
        nodes.NODE_CLASS_MAPPINGS.update({**self.classes, **own})
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import folder_paths

        import nodes

        tables = (folder_paths.folder_names_and_paths, nodes.NODE_CLASS_MAPPINGS)
        for table, before in zip(tables, self.before, strict=True):
            table.clear()
            table.update(before)
        folder_paths.filename_list_cache.clear()
        self.folder.cleanup()

    def refusal(self, manifest: dict[str, Any]) -> str:
        """Return the first thing that ComfyUI has against the job, nothing if it would run it."""
        from execution import validate_prompt

        prompt = compose(manifest, "result", [], frozenset(self.names))
        valid, error, _, problems = asyncio.run(validate_prompt("validation", prompt, None))
        if valid:
            return ""
        for problem in problems.values():
            first = problem["errors"][0]
            return f"ComfyUI refuses {problem['class_type']}: {first['details'].partition(' not in ')[0]}"
        return f"ComfyUI refuses it: {error['message']}"
