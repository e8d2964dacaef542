"""Node classes as ComfyUI has them once it serves: its own, old and new, this pack's, and the tiny model's."""

import asyncio
import importlib
from types import ModuleType

import velocity_nodes

EXTRAS = (
    "align_your_steps",
    "custom_sampler",
    "hooks",
    "logic",
    "primitive",
)


def load_classes() -> dict[str, type]:
    """Return the classes by name."""
    import nodes

    classes = dict(nodes.NODE_CLASS_MAPPINGS)
    modules = [importlib.import_module(f"comfy_extras.nodes_{name}") for name in EXTRAS]
    for module in [*modules, velocity_nodes, importlib.import_module("demo.tiny_flux")]:
        classes.update(getattr(module, "NODE_CLASS_MAPPINGS", None) or asyncio.run(_new_classes(module)))
    return classes


async def _new_classes(module: ModuleType) -> dict[str, type]:
    extension = await module.comfy_entrypoint()
    return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}
