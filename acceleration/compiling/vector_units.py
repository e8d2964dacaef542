"""Lets inductor find out what the processor can in tenths of a second, where it takes many at each start.

It builds a small library for each set of vector instructions and loads it in a new process, which imports all of torch
first: six times a second and more on a server. Here these processes find `light_torch` instead.
"""

import contextlib
import os
import sys
from pathlib import Path

import torch

SEARCH = "TORCH_CUSTOM_PYTHONPATH"  # inductor's word for where its processes find their imports
# Trust what the processor says of itself where inductor can be told to: spares one more such library.
TRUST = {"cpp.vec_isa_ok": True}
WIDTHS = {"AVX2": 256, "AVX512": 512}  # bits


def find_vector_units() -> None:
    """Have inductor look once; it remembers the answer for this process."""
    try:
        from torch._inductor.cpu_vec_isa import valid_vec_isa_list
    except ImportError:  # another version of torch, which may ask in another way
        return
    chosen = os.environ.get(SEARCH)
    folder = str(Path(__file__).with_name("light_torch"))
    os.environ[SEARCH] = os.pathsep.join([folder, os.pathsep.join(sys.path) if chosen is None else chosen])
    try:
        # Compiling meets a full disk again, and then the model runs uncompiled.
        with contextlib.suppress(OSError), torch._inductor.config.patch(TRUST):
            valid_vec_isa_list()
    finally:
        if chosen is None:
            del os.environ[SEARCH]
        else:
            os.environ[SEARCH] = chosen


def vector_options() -> dict[str, bool | int]:
    """Return inductor's options for this processor.

    The width is inductor's own choice. As an option it is part of the names in its caches, which otherwise would give
    code for wide registers to a processor with narrow ones: wrong numbers when a folder moves to another machine.
    """
    width = WIDTHS.get(torch.backends.cpu.get_cpu_capability())
    return TRUST if width is None else {**TRUST, "cpp.simdlen": width}
