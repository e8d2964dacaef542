"""The compiled functions of one model: one for each kind of block, shared by all blocks of that kind.

Weights are inputs of the compiled graph, so LoRAs of any strength need no new one, and weights that are streamed are
brought before it runs (`streamed_weights.py`). Where code of other nodes runs inside blocks, each set of it has
functions of its own. When the compiler fails, what it failed at runs uncompiled and the log says why; what was compiled
stays.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from torch import nn

from ..blocks.block_call import BlockCall
from .compiled_function import COMPILE_ERRORS, CompiledFunction, not_whole
from .dynamic_shapes import BlockInputs, Path, can_share_batch_sizes
from .foreign_code import OVERRIDE, patches_inside, replaced_forwards
from .streamed_weights import StreamedWeights

log = logging.getLogger("velocity")

Kind = tuple[Any, ...]  # of block, then which forwards other nodes replaced in it, then which patches run inside it
# How many graphs code of other nodes inside a block may take: a patch whose numbers change would take one each time.
# An override of the attention is mostly a choice of kernel, and some blocks need a graph for one sample and for more.
ONE_GRAPH, TWO_GRAPHS = 1, 2


class CompiledBlocks:
    """Visits the blocks of a model and runs them compiled. Holds no model."""

    def __init__(self, **compile_options: Any) -> None:
        """`compile_options` are those of `torch.compile`."""
        self.options = compile_options
        self.functions: dict[Kind, dict[frozenset[Path], CompiledFunction]] = {}
        self.uncompiled: set[tuple[Kind, frozenset[Path]]] = set()
        self.kinds: dict[tuple[int, int], Kind] = {}
        self.weights = StreamedWeights()
        self.shape: tuple[int, ...] = ()
        self.settled: dict[tuple, Callable[[BlockCall], Any]] = {}

    def begin_run(self) -> None:
        """Look again at the blocks: since the last run core may have moved weights or replaced layers' forwards."""
        self.settled.clear()
        self.kinds.clear()
        self.weights.forget()

    def begin_model_call(self, shape: tuple[int, ...]) -> None:
        """Take the shape of the model's input, which settles how many samples there are."""
        self.shape = shape

    def visit(self, call: BlockCall) -> Any:
        """Run one block compiled, where that can be."""
        throw_exception_if_processing_interrupted()  # core asks in each layer, but not in compiled ones
        place = (call.stack_index, call.index, self.shape, patches_inside(call))
        if not self.weights.knows(place[:2]):
            self.weights.look(place[:2], call.block, BlockInputs(call).stream)
        with self.weights.present(place[:2]) as present:
            if not present:
                return call.run()
            return self.settled[place](call) if place in self.settled else self._settle(place, call)

    def _settle(self, place: tuple, call: BlockCall) -> Any:
        """Find out how this block runs, and run it."""
        if place[:2] not in self.kinds:
            self.kinds[place[:2]] = _kind(call.block)
        inputs, kind = BlockInputs(call), (*self.kinds[place[:2]], place[-1])
        known = self.functions.setdefault(kind, {})
        # One sample fits every function; with more it shows which inputs have one entry for each.
        batched = next(iter(known)) if inputs.samples == 1 and known else inputs.batched()
        if (kind, batched) in self.uncompiled:
            self.settled[place] = BlockCall.run
            return call.run()
        if batched in known:
            output = known[batched].first(call, inputs)
        else:
            try:
                output = self._compile(call, kind, batched, inputs)
            except COMPILE_ERRORS as error:
                self.uncompiled.add((kind, batched))
                self.settled[place] = BlockCall.run
                return self._run_uncompiled(call, error)
        self.settled[place] = known[batched].again
        return output

    def _compile(self, call: BlockCall, kind: Kind, batched: frozenset[Path], inputs: BlockInputs) -> Any:
        """Compile the block, and run it."""
        name, start = type(call.block).__name__, time.perf_counter()
        log.info("Compile Model+: compiling %s ...", name)
        any_batch = self.options["dynamic"] is not False and can_share_batch_sizes()
        limit, plain = _most_graphs(kind), not any(kind[-2:])
        function = CompiledFunction(name, self.options, batched, any_batch, limit, plain)
        try:
            output = function.first(call, inputs)
        except COMPILE_ERRORS as error:
            if not any_batch:
                raise
            log.debug("Compile Model+: %s needs a graph for one sample and one for more: %s", name, error)
            function = CompiledFunction(name, self.options, batched, False, limit, plain)
            output = function.first(call, inputs)
        self.functions[kind][batched] = function
        log.info("Compile Model+: %s compiled in %.1f s", name, time.perf_counter() - start)
        return output

    def _run_uncompiled(self, call: BlockCall, failure: Exception) -> Any:
        """Run a block that can't be compiled. Its inputs are untouched."""
        name = type(call.block).__name__
        if self.options["fullgraph"]:
            raise not_whole(name, failure) from failure
        log.warning("Compile Model+: %s runs uncompiled, as the compiler failed", name, exc_info=failure)
        return call.run()


def _kind(block: nn.Module) -> Kind:
    """Return what two blocks must have in common to share a function."""
    shapes = ((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
    return type(block), tuple(shapes), replaced_forwards(block)


def _most_graphs(kind: Kind) -> int:
    """Return how many graphs a function may take: never so many that torch would give up on it without a word."""
    *_, forwards, patches = kind
    if forwards or any(name != OVERRIDE for name, _ in patches):
        return ONE_GRAPH
    return TWO_GRAPHS if patches else torch._dynamo.config.recompile_limit
