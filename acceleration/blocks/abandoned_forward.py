"""What core leaves behind when a forward with slots in it ends by an exception, and only that.

Core's models that stream weights (`comfy/model_prefetch.py`, from 0.30 on) pin those of a block when its turn comes and
free them at the next block's. Core's own clean-up empties the queues of the whole process, and under MultiGPU CFG Split
other threads are in the middle of theirs. A queue is this forward's when this forward's slots are in it: core makes it
of the lists that it finds in the model.
"""

import inspect
from collections.abc import Collection
from typing import Any

from torch import nn


def release(slots: Collection[nn.Module]) -> None:
    """Free the weights that core holds for a forward that called `slots` and will not go on.

    Also drops the calling thread's allocation graph, which would be left open. Does nothing on a ComfyUI without them.
    """
    try:
        from comfy import model_prefetch
    except ImportError:
        return
    getattr(model_prefetch, "cleanup_malloc_graph", lambda: None)()
    ours = {id(slot) for slot in slots}
    for queue in list(getattr(model_prefetch, "PREFETCH_QUEUES", ())):
        if not any(id((_held(entry) or (entry,))[0]) in ours for entry in queue):
            continue
        held = _held(queue[0])
        queue.clear()  # core forgets it at the end of the node
        if held and held[1] is not None:
            cleanup = model_prefetch.cleanup_prefetched_modules  # takes (modules) in 0.30, (block, modules) later
            cleanup(*held[-len(inspect.signature(cleanup).parameters) :])


def _held(entry: Any) -> tuple | None:
    """Return (block, modules) of an entry whose weights are pinned: core makes it (stream, (block, modules))."""
    return entry[1] if isinstance(entry, tuple) and isinstance(entry[-1], tuple) else None
