"""pytest plugin (`-p tests.numerics.pytorch_attention`): ComfyUI as it is after --use-pytorch-cross-attention.

torch.compile can follow no other attention of the CPU, and core chooses when it is imported.
"""

from dev.host import import_comfyui

import_comfyui()

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.use_pytorch_cross_attention = True
