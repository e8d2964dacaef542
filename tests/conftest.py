"""Every test sees a real ComfyUI (`import comfy`) and the pack (`import velocity_nodes`)."""

from dev.host import import_comfyui, import_pack

import_comfyui()
import_pack()
