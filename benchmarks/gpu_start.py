"""Starts ComfyUI's memory management in this process as its own main.py does: dynamic VRAM where the card has it.

Nothing may have imported torch before. A budget fills the card up to what a smaller one has: real memory, so every
allocator meets the limit, and what is free is what such a card has free.
"""

import ctypes
import os
import shutil
import subprocess
import sys

import comfy.cli_args


def start(cpu: bool, dynamic: bool = True, budget: float = 0.0) -> str:
    """Return how weights are managed: "dynamic VRAM", or "classic" and why. `budget` is in GiB, 0 the whole card."""
    arguments = comfy.cli_args.args
    arguments.cpu, arguments.disable_dynamic_vram, arguments.use_pytorch_cross_attention = cpu, not dynamic, True
    if cpu:
        return "classic: it runs on the CPU"
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already, and comfy-aimdo has to come first")
    import comfy_aimdo.control

    wanted = comfy.cli_args.enables_dynamic_vram()
    if wanted:
        try:
            comfy_aimdo.control.init(nvml_pressure=True)
        except TypeError:  # before 0.4.11
            comfy_aimdo.control.init()
    import cuda_malloc  # noqa: F401  sets the allocator that torch starts with

    if budget:
        _fill_up(budget)
    return _enable_dynamic_vram() if wanted else "classic: dynamic VRAM is switched off"


def _fill_up(budget: float) -> None:
    """Take all but `budget` GiB of the card, this process's own context included in the rest."""
    import torch

    torch.zeros(1, device="cuda")  # makes the context
    size = torch.cuda.mem_get_info()[1] - int(budget * 2**30)
    address = ctypes.c_uint64()
    driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    code = driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) if size > 0 else "the card is smaller"
    if code:
        raise SystemExit(f"could not leave {budget:g} GiB of the card free: {code} (a number is the driver's error)")


def _enable_dynamic_vram() -> str:
    import comfy.memory_management
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy_aimdo.control

    if not management.is_nvidia() or management.is_wsl():
        return "classic: dynamic VRAM is for NVIDIA cards outside of WSL"
    if management.torch_version_numeric < (2, 8):
        return "classic: dynamic VRAM needs torch 2.8"
    if not comfy_aimdo.control.init_device(management.get_torch_device().index):
        return "classic: comfy-aimdo does not work here"
    comfy_aimdo.control.set_log_warning()
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    return "dynamic VRAM"


def end_node() -> None:
    """Do what ComfyUI does after each node that it executes."""
    import comfy.memory_management
    import comfy.model_management

    if not comfy.memory_management.aimdo_enabled:
        return
    import comfy_aimdo.model_vbar

    comfy.model_management.reset_cast_buffers()
    try:
        import comfy.model_prefetch
    except ImportError:  # ComfyUI before the prefetch queues
        pass
    else:
        comfy.model_prefetch.cleanup_prefetch_queues()
    comfy_aimdo.model_vbar.vbars_reset_watermark_limits()


def nvidia_smi(field: str) -> str | None:
    """Return what nvidia-smi says of the first card, such as "name", without torch; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()
    return lines[0].strip() if lines else None
