"""The compiled functions of one model: one for each kind of block, shared by all blocks of that kind.

Weights are inputs of the compiled graph, so LoRAs of any strength need no new one, and weights that are streamed are
brought before it runs (`streamed_weights.py`). When the compiler fails, the blocks of that kind run uncompiled and the
log says why.
"""

import logging
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import nn

from ..blocks.block_call import BlockCall
from ..blocks.quantized_linear import opaque_products
from .dynamic_shapes import BlockInputs, Path, can_share_batch_sizes, stable_arguments
from .streamed_weights import StreamedWeights

log = logging.getLogger("velocity")

LARGEST_BATCH = 2**15  # core's attention splits larger ones: with this bound that branch stays out of the graph


class _Function:
    """A compiled function for all blocks of one kind."""

    def __init__(self, name: str, options: dict[str, Any], batched: frozenset[Path], any_batch: bool) -> None:
        self.batched, self.any_batch = batched, any_batch
        self.stream: Path = ()
        self.batch_dim: int | None = None
        self.dynamic = options["dynamic"] is not False
        # A code object of its own: torch keeps compiled graphs with the code, so they go when this function goes.
        code = _run_block.__code__.replace(co_name=f"compiled_{name}")
        # A graph that serves any batch must be whole: behind a break torch would treat the batch as a constant.
        options = {**options, "fullgraph": options["fullgraph"] or any_batch}
        self.compiled = torch.compile(types.FunctionType(code, _run_block.__globals__), **options)

    def first(self, call: BlockCall, inputs: BlockInputs) -> Any:
        """Run a block of this kind with its inputs marked, so that a graph made of them stays open for others."""
        if self.dynamic:
            inputs.mark_dynamic(self.batched, self.any_batch)
        self.stream = inputs.stream_path
        self.batch_dim = inputs.batch_dim if self.any_batch else None
        return self.again(call)

    def again(self, call: BlockCall) -> Any:
        """Run a block of this kind when `first` has seen such inputs before."""
        args, kwargs = stable_arguments(call)
        with opaque_products(call.block):
            return self.compiled(call.block, args, kwargs, self.stream, self.batch_dim)


def _run_block(block: nn.Module, args: tuple, kwargs: dict[str, Any], path: Path, batch_dim: int | None) -> Any:
    if batch_dim is not None:
        stream = args[path[0]] if isinstance(path[0], int) else kwargs[path[0]]
        for key in path[1:]:
            stream = stream[key]
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
        self.weights = StreamedWeights()
        self.shape: tuple[int, ...] = ()
        self.settled: dict[tuple, Callable[[BlockCall], Any]] = {}

    def begin_run(self) -> None:
        """Look again at where the weights are: core may have moved them since the last run."""
        self.settled.clear()
        self.weights.forget()

    def begin_model_call(self, shape: tuple[int, ...]) -> None:
        """Take the shape of the model's input, which settles how many samples there are."""
        self.shape = shape

    def visit(self, call: BlockCall) -> Any:
        """Run one block compiled, where that can be."""
        throw_exception_if_processing_interrupted()  # core asks in each layer, but not in compiled ones
        place = (call.stack_index, call.index, self.shape)
        kind = self.kinds.get(place[:2]) or self.kinds.setdefault(place[:2], _kind(call.block))
        if not self.weights.knows(place[:2]):
            self.weights.look(place[:2], call.block, BlockInputs(call).stream)
        with self.weights.present(place[:2]) as present:
            return self._run(place, kind, call) if present else call.run()

    def _run(self, place: tuple, kind: tuple, call: BlockCall) -> Any:
        """Run a block whose weights are on the device."""
        try:
            if place in self.settled:
                return self.settled[place](call)
            return self._settle(place, kind, call)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            self.settled[place] = BlockCall.run
            return self._run_uncompiled(call, kind, error)

    def _settle(self, place: tuple, kind: tuple, call: BlockCall) -> Any:
        """Find out how this block runs, and run it."""
        inputs, known = BlockInputs(call), self.functions.setdefault(kind, {})
        if kind in self.uncompiled:
            self.settled[place] = BlockCall.run
            return call.run()
        # One sample fits every function; with more it shows which inputs have one entry for each.
        batched = next(iter(known)) if inputs.samples == 1 and known else inputs.batched()
        output = known[batched].first(call, inputs) if batched in known else self._compile(call, kind, batched, inputs)
        self.settled[place] = known[batched].again
        return output

    def _compile(self, call: BlockCall, kind: tuple, batched: frozenset[Path], inputs: BlockInputs) -> Any:
        """Compile the block, and run it."""
        name, start = type(call.block).__name__, time.perf_counter()
        log.info("Compile Model+: compiling %s ...", name)
        any_batch = self.options["dynamic"] is not False and can_share_batch_sizes()
        function = _Function(name, self.options, batched, any_batch)
        try:
            output = function.first(call, inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            if not any_batch:
                raise
            log.debug("Compile Model+: %s needs a graph for one sample and one for more: %s", name, error)
            function = _Function(name, self.options, batched, any_batch=False)
            output = function.first(call, inputs)
        self.functions[kind][batched] = function
        log.info("Compile Model+: %s compiled in %.1f s", name, time.perf_counter() - start)
        return output

    def _run_uncompiled(self, call: BlockCall, kind: tuple, failure: Exception) -> Any:
        """Give up on a kind of block, and run this one. Its inputs are untouched."""
        name = type(call.block).__name__
        if self.options["fullgraph"]:
            raise RuntimeError(
                f"Compile Model+: {name} can't be compiled as one graph: {str(failure).splitlines()[0]}. "
                "Switch fullgraph off to compile it in parts"
            ) from failure
        log.warning("Compile Model+: %s runs uncompiled, as the compiler failed", name, exc_info=failure)
        self.uncompiled.add(kind)
        return call.run()


def _kind(block: nn.Module) -> tuple:
    """Return what two blocks must have in common to share a function."""
    return type(block), *((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
