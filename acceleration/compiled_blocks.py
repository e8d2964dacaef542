"""The compiled functions of one model: one for each kind of block, shared by all blocks of that kind.

Weights are inputs of the compiled graph, so LoRAs of any strength need no new one. A block whose weights are streamed
(core's low VRAM mode) runs as it is. When the compiler fails, the blocks of that kind run uncompiled and the log says
why.
"""

import logging
import time
import types
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import nn

from .block_call import BlockCall
from .dynamic_shapes import BlockInputs, Path, can_share_batch_sizes

log = logging.getLogger("velocity")

LARGEST_BATCH = 2**15  # core's attention splits larger ones: with this bound that branch stays out of the graph


class _Function:
    """A compiled function for all blocks of one kind."""

    def __init__(self, name: str, options: dict[str, Any], batched: frozenset[Path], any_batch: bool) -> None:
        self.batched, self.any_batch = batched, any_batch
        self.dynamic = options["dynamic"] is not False
        # A code object of its own: torch keeps compiled graphs with the code, so they go when this function goes.
        code = _run_block.__code__.replace(co_name=f"compiled_{name}")
        # A graph that serves any batch must be whole: behind a break torch would treat the batch as a constant.
        options = {**options, "fullgraph": options["fullgraph"] or any_batch}
        self.compiled = torch.compile(types.FunctionType(code, _run_block.__globals__), **options)

    def __call__(self, block: nn.Module, inputs: BlockInputs) -> Any:
        """Run a block of this kind."""
        if self.dynamic:
            inputs.mark_dynamic(self.batched, self.any_batch)
        batch_dim = inputs.batch_dim if self.any_batch else None
        return self.compiled(block, inputs.args, inputs.kwargs, inputs.stream, batch_dim)


def _run_block(
    block: nn.Module, args: tuple, kwargs: dict[str, Any], stream: torch.Tensor, batch_dim: int | None
) -> Any:
    if batch_dim is not None:
        torch._check(stream.shape[batch_dim] >= 1)
        torch._check(stream.shape[batch_dim] <= LARGEST_BATCH)
    return block(*args, **kwargs)


class CompiledBlocks:
    """Visits the blocks of a model and runs them compiled. Holds no model."""

    def __init__(self, **compile_options: Any) -> None:
        """`compile_options` are those of `torch.compile`."""
        self.options = compile_options
        self.functions: dict[tuple, dict[frozenset[Path], _Function]] = {}
        self.kinds: dict[tuple[int, int], tuple] = {}
        self.uncompiled: set[tuple] = set()
        self.streamed: dict[tuple[int, int], bool] = {}

    def begin_run(self) -> None:
        """Look again at where the weights are: core may have moved them since the last run."""
        self.streamed.clear()

    def visit(self, call: BlockCall) -> Any:
        """Run one block compiled, where that can be."""
        place = (call.stack_index, call.index)
        kind = self.kinds.get(place) or self.kinds.setdefault(place, _kind(call.block))
        throw_exception_if_processing_interrupted()  # core asks in each layer, but not in compiled ones
        inputs, known = BlockInputs(call), self.functions.setdefault(kind, {})
        if kind in self.uncompiled or self._streamed(place, call.block, inputs.stream.device):
            return call.run()
        # One sample fits every function; with more it shows which inputs have one entry for each.
        batched = next(iter(known)) if inputs.samples == 1 and known else inputs.batched()
        if batched not in known:
            return self._first_call(call, kind, batched, inputs)
        return known[batched](call.block, inputs)

    def _first_call(self, call: BlockCall, kind: tuple, batched: frozenset[Path], inputs: BlockInputs) -> Any:
        """Compile the block, and run it. When that fails, the inputs are untouched."""
        name, start = type(call.block).__name__, time.perf_counter()
        log.info("Compile Model+: compiling %s ...", name)
        failure: Exception | None = None
        for any_batch in (
            (True, False) if self.options["dynamic"] is not False and can_share_batch_sizes() else (False,)
        ):
            function = _Function(name, self.options, batched, any_batch)
            try:
                output = function(call.block, inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                failure = error
                continue
            self.functions[kind][batched] = function
            log.info("Compile Model+: %s compiled in %.1f s", name, time.perf_counter() - start)
            return output
        if self.options["fullgraph"]:
            raise RuntimeError(
                f"Compile Model+: {name} can't be compiled as one graph: {str(failure).splitlines()[0]}. "
                "Switch fullgraph off to compile it in parts"
            ) from failure
        log.warning("Compile Model+: %s runs uncompiled, as the compiler failed", name, exc_info=failure)
        self.uncompiled.add(kind)
        return call.run()

    def _streamed(self, place: tuple[int, int], block: nn.Module, device: torch.device) -> bool:
        """Whether core brings weights of this block to the device, or patches them, in each call."""
        if place not in self.streamed:
            elsewhere = any(parameter.device != device for parameter in block.parameters())
            patched = any(getattr(module, "weight_function", ()) for module in block.modules())
            if (elsewhere or patched) and not any(self.streamed.values()):
                log.warning(
                    "Compile Model+: this model does not fit into the memory of the card. Blocks whose weights are "
                    "streamed run uncompiled: choose fp8 in Load Diffusion Model+, or a smaller picture"
                )
            self.streamed[place] = elsewhere or patched
        return self.streamed[place]


def _kind(block: nn.Module) -> tuple:
    """Return what two blocks must have in common to share a function."""
    return type(block), *((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
