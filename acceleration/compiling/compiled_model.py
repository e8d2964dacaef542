"""One loaded model as one node runs it: block by block, as a whole, or as it is where that proved to be faster.

Guiders may call several models with the options of one of them, so each has compiled objects of its own.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..blocks.architectures import Stack
from ..blocks.block_stack import BlockCall, UnsupportedModelError, stacks_of, visit_blocks
from ..blocks.quantized_linear import opaque_products
from .compiled_blocks import CompiledBlocks
from .faster_choice import FasterChoice


class CompiledModel:
    """Runs a model. Holds its diffusion model only where that is compiled as a whole."""

    def __init__(self, diffusion_model: nn.Module, store: CompiledBlocks, whole: bool, keep_fastest: bool) -> None:
        """Raises `UnsupportedModelError` for a model whose blocks are not known, unless it is compiled as a whole."""
        # Core's LoRA patches do so with the weights they change, and compiled code is for one of the two.
        diffusion_model.requires_grad_(False)
        self.store, self.as_whole = store, whole
        self.stacks = () if whole else _known_stacks(diffusion_model)
        self.compiled_whole: nn.Module | None = None
        self.choice = FasterChoice() if keep_fastest else None
        self.visited = 0

    def run(self, executor: Callable, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """Call the APPLY_MODEL `executor` of this model, compiled."""
        base = executor.class_obj
        self.store.begin_model_call(tuple(args[0].shape))
        if self.as_whole:
            return self._run_whole(executor, args, kwargs)
        if self.choice is not None:
            return self._fastest(executor, args, kwargs)
        with visit_blocks(base.diffusion_model, self._visit, self.stacks):
            output = executor(*args, **kwargs)
        self._check_visits(base.diffusion_model)
        return output

    def _visit(self, call: BlockCall) -> Any:
        self.visited += 1
        return self.store.visit(call)

    def _check_visits(self, diffusion_model: nn.Module) -> None:
        """Behind a call: a step cache may end one early, but never the first."""
        if not self.visited:
            raise UnsupportedModelError(
                f"Compile Model+: {type(diffusion_model).__name__} called none of its known blocks, so nothing would "
                "be compiled; choose the scope 'whole model', and report this message"
            )

    def _run_whole(self, executor: Callable, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        base = executor.class_obj
        original = base.diffusion_model
        if self.compiled_whole is None or self.compiled_whole._orig_mod is not original:
            from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

            options = {**self.store.options.get("options", {}), "guard_filter_fn": skip_torch_compile_dict}
            self.compiled_whole = torch.compile(original, **{**self.store.options, "options": options})
        base.diffusion_model = self.compiled_whole
        try:
            with opaque_products(original):
                return executor(*args, **kwargs)
        finally:
            base.diffusion_model = original

    def _fastest(self, executor: Callable, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """Run the model compiled or not, and take the time until it is clear which is faster."""
        shape, device = tuple(args[0].shape), args[0].device
        compiled, decided = self.choice.compiled(shape), self.choice.decided(shape)
        if decided and not compiled:
            return executor(*args, **kwargs)

        def as_it_is(call: BlockCall) -> Any:
            self.visited += 1
            return call.run()

        before = self.visited
        _wait(device, not decided)
        start = time.perf_counter()
        diffusion_model = executor.class_obj.diffusion_model
        with visit_blocks(diffusion_model, self._visit if compiled else as_it_is, self.stacks):
            output = executor(*args, **kwargs)
        _wait(device, not decided)
        self._check_visits(diffusion_model)
        if not decided:
            self.choice.note(shape, compiled, self.visited - before, time.perf_counter() - start)
        return output


def _known_stacks(diffusion_model: nn.Module) -> tuple[Stack, ...]:
    try:
        return stacks_of(diffusion_model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"Compile Model+ does not know the blocks of {type(diffusion_model).__name__}; choose the scope "
            "'whole model', which needs no blocks"
        ) from error


def _wait(device: torch.device, needed: bool) -> None:
    if needed and device.type == "cuda":
        torch.cuda.synchronize(device)
