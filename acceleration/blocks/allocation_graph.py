"""Core's allocation graph stays off while blocks are watched or run compiled.

ComfyUI from 0.34 on records what a model's blocks allocate and replays it ("Comfy Compiler"). It expects each forward
to run to its end and each block to allocate alike, and it takes back what a block allocated: a stopped forward leaves
the recording open, a tensor kept from a block leaks a page or is overwritten, a compiled block allocates otherwise.
Which models open one is decided deep inside core and grows with each release, so it is off for any model. Core reads
the switch in each forward and nowhere else.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "disable_comfy_compiler"
RUNS = "velocity_runs_without_graph"  # beside the switch: (how many runs need it, what it was before them)

_switching = threading.Lock()


@contextmanager
def without_allocation_graph() -> Iterator[None]:
    """Switch core's allocation graph off while open; also nested and from several threads. Open it at OUTER_SAMPLE.

    The last one that closes puts back what was there before the first. Does nothing on a ComfyUI without the switch.
    """
    from comfy.cli_args import args

    if not hasattr(args, SWITCH):
        yield
        return
    with _switching:
        runs, before = getattr(args, RUNS, (0, getattr(args, SWITCH)))
        setattr(args, RUNS, (runs + 1, before))
        setattr(args, SWITCH, True)
    try:
        yield
    finally:
        with _switching:
            runs, before = getattr(args, RUNS)
            if runs > 1:
                setattr(args, RUNS, (runs - 1, before))
            else:
                delattr(args, RUNS)
                setattr(args, SWITCH, before)
