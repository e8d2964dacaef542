"""Measurements, one command each: `python -m nox -s bench -- NAME`. Importing this imports ComfyUI and the pack."""

from dev.host import import_comfyui, import_pack

import_comfyui()
import_pack()
