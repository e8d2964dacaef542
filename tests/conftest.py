"""Every test sees a real ComfyUI (`import comfy`) and the pack (`import velocity_nodes`)."""

from importlib.metadata import version

from dev.host import import_comfyui, import_pack

PACKAGES = ("comfyui-frontend-package", "comfy-kitchen", "comfy-aimdo", "torch")

import_comfyui()
import_pack()


def pytest_report_header() -> str:
    """Say what is under test; the same tests run on several versions. dev/forward_table.py reads it."""
    import comfyui_version

    others = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"ComfyUI {comfyui_version.__version__}, {others}"
