"""Every test sees a real ComfyUI (`import comfy`) and the pack (`import velocity_nodes`)."""

from importlib.metadata import version

import pytest

from dev.host import import_comfyui, import_pack

PACKAGES = ("comfyui-frontend-package", "comfy-kitchen", "comfy-aimdo", "torch")

import_comfyui()
import_pack()


def pytest_report_header() -> str:
    """Say what is under test; the same tests run on several versions. dev/forward_table.py reads it."""
    import comfyui_version

    others = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"ComfyUI {comfyui_version.__version__}, {others}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the gate leaves out says why."""
    for item in items:
        if any(not mark.args for mark in item.iter_markers("soak")):
            raise pytest.UsageError(f'{item.nodeid} has no reason: @pytest.mark.soak("why the gate leaves it out")')
