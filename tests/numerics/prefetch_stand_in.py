"""A stand-in for `comfy.model_prefetch` as ComfyUI from 0.34 on has it, for a machine without a GPU.

It keeps the rules that matter: weights of a block are pinned at its turn and freed at the next one's, queues belong to
the process and allocation graphs to a thread, a graph that was left open fails at the next forward. Core's own models
(MiniMax H3, LTX-2) call it; `open_graphs` adds the two calls that newer versions of them make.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import comfy
import pytest
import torch
from comfy.cli_args import args


class ModelPrefetch:
    """`ended` counts the graphs of finished forwards, `aborted` those thrown away; `pinned` are blocks."""

    def __init__(self, old_signature: bool = False) -> None:
        self.PREFETCH_QUEUES: list[list] = []
        self.open: set[int] = set()
        self.pinned: list[torch.nn.Module] = []
        self.begun = self.ended = self.aborted = 0
        if old_signature:  # of 0.30
            self.cleanup_prefetched_modules = lambda modules: self._unpin(modules)

    def _unpin(self, modules: list) -> None:
        for module in modules:
            self.pinned.remove(module)

    def cleanup_prefetched_modules(self, module: torch.nn.Module, modules: list) -> None:
        assert isinstance(module, torch.nn.Module)
        self._unpin(modules)

    def cleanup_prefetch_queues(self) -> None:
        raise AssertionError("this empties the queues of other threads as well")

    def make_prefetch_queue(self, queue: list, device: torch.device, transformer_options: dict) -> list:
        queue = [None, *queue, None]
        self.PREFETCH_QUEUES.append(queue)
        return queue

    def prefetch_queue_pop(self, queue: list, device: torch.device, module: torch.nn.Module | None) -> None:
        consumed = queue.pop(0)
        if consumed is not None:
            self._unpin(consumed[1][1])
        if queue[0] is not None:
            assert queue[0] is module
            self.pinned.append(module)
            queue[0] = ("stream", (module, [module]))

    def malloc_graph_begin(self) -> None:
        if args.disable_comfy_compiler:
            return
        if threading.get_ident() in self.open:
            raise RuntimeError("aimdo memory compile error: could not start recording")
        self.open.add(threading.get_ident())
        self.begun += 1

    def malloc_graph_end(self) -> None:
        if threading.get_ident() in self.open:
            self.open.discard(threading.get_ident())
            self.ended += 1

    def cleanup_malloc_graph(self) -> None:
        if threading.get_ident() in self.open:
            self.open.discard(threading.get_ident())
            self.aborted += 1

    def nothing_left(self) -> bool:
        """Whether each graph that was begun is over and no weights are pinned."""
        return not self.open and not self.pinned and self.begun == self.ended + self.aborted


def install(monkeypatch: pytest.MonkeyPatch, **settings: bool) -> ModelPrefetch:
    """Put a stand-in in core's place, and core's switch (off: the graph is on) where this version has none."""
    fake = ModelPrefetch(**settings)
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", fake)
    monkeypatch.setattr(comfy, "model_prefetch", fake, raising=False)
    monkeypatch.setattr(args, "disable_comfy_compiler", False, raising=False)
    return fake


@contextmanager
def open_graphs(diffusion_model: torch.nn.Module, fake: ModelPrefetch) -> Iterator[None]:
    """The model's forward begins a graph, and ends it when it comes to its end."""
    hooks = [
        diffusion_model.register_forward_pre_hook(lambda *_: fake.malloc_graph_begin()),
        diffusion_model.register_forward_hook(lambda *_: fake.malloc_graph_end()),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
