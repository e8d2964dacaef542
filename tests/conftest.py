"""Every test sees a real ComfyUI (`import comfy`) and the pack (`import velocity_nodes`)."""

from dev.host import import_comfyui, import_pack

import_comfyui()
import_pack()


def pytest_report_header() -> str:
    """Say which ComfyUI is under test; the same tests run on the reference and on the floor."""
    import comfyui_version
    import torch

    return f"ComfyUI {comfyui_version.__version__}, torch {torch.__version__}"
