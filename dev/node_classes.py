"""Node classes as ComfyUI has them once it serves: its own, old and new, this pack's, and the tiny model's."""

import asyncio
import functools
from types import ModuleType

import velocity_nodes

from demo import tiny_flux


@functools.cache
def load_classes() -> dict[str, type]:
    """Return the classes by name."""
    return asyncio.run(_load())


async def _load() -> dict[str, type]:
    import nodes

    failed = set(await nodes.init_builtin_extra_nodes()) - {"nodes_replacements.py"}  # no nodes; it needs the server
    assert not failed, f"ComfyUI could not load its own {failed}"
    return {**nodes.NODE_CLASS_MAPPINGS, **await _new_classes(velocity_nodes), **await _new_classes(tiny_flux)}


async def _new_classes(module: ModuleType) -> dict[str, type]:
    extension = await module.comfy_entrypoint()
    return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}
