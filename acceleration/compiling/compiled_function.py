"""The compiled function of one kind of block: what `torch.compile` made of it, and how many graphs it may take."""

import contextlib
import logging
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list as cached_graphs

from ..blocks.block_call import BlockCall
from ..blocks.quantized_linear import opaque_products
from .bypass_loras import strengths_as_tensors
from .dynamic_shapes import BlockInputs, Path, can_share_batch_sizes, stable_arguments

log = logging.getLogger("velocity")

COMPILE_ERRORS = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)
LARGEST_BATCH = 2**15  # core's attention splits larger ones: with this bound that branch stays out of the graph


class CompiledFunction:
    """Runs blocks of one kind. With `limit` graphs it takes no more: what fits none of them runs uncompiled."""

    def __init__(
        self, name: str, options: dict[str, Any], batched: frozenset[Path], any_batch: bool, limit: int, plain: bool
    ) -> None:
        """`options` are those of `torch.compile`; `batched` and `any_batch` those of `BlockInputs.mark_dynamic`.

        `plain`: no code of other nodes runs inside, so nothing loops over transformer_options.
        """
        self.name, self.batched, self.any_batch, self.limit = name, batched, any_batch, limit
        self.stream: Path = ()
        self.batch_dim: int | None = None
        self.dynamic = options["dynamic"] is not False
        self.plain, self.told, self.whole = plain, False, options["fullgraph"]
        # A code object of its own: torch keeps compiled graphs with the code, so they go when this function goes.
        self.code = _run_block.__code__.replace(co_name=f"compiled_{name}")
        function = types.FunctionType(self.code, _run_block.__globals__)
        # A graph that serves any batch must be whole: behind a break torch would treat the batch as a constant.
        options = {**options, "fullgraph": options["fullgraph"] or any_batch}
        if plain and can_share_batch_sizes():
            options["options"] = {**options.get("options", {}), "guard_filter_fn": _without_options_keys}
        self.compiled = torch.compile(function, **options)
        self.as_known = torch._dynamo.run(function)  # runs compiled what fits a graph, and compiles nothing

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
        missed: list[str] = []
        run = self.compiled if self.graphs() < self.limit else self.as_known
        try:
            with (
                opaque_products(call.block),
                contextlib.nullcontext() if self.plain else strengths_as_tensors(call.block),
            ):
                output = run(call.block, args, kwargs, self.stream, self.batch_dim, missed)
        except COMPILE_ERRORS as error:
            if self.whole:
                raise not_whole(self.name, error) from error
            if not self.graphs():
                raise
            self.limit = self.graphs()  # what was compiled stays
            log.debug("Compile Model+: no graph for other inputs of %s: %s", self.name, error)
            missed, output = ["the compiler failed"], call.run()
        if missed and not self.told:
            self.told = True
            log.warning(
                "Compile Model+: %s runs uncompiled where its %d compiled version(s) do not fit, as a patch, a bypass "
                "LoRA or an input changed; compiling each change anew would take longer",
                self.name,
                self.graphs(),
            )
        return output

    def graphs(self) -> int:
        """Return how many graphs there are."""
        return len(cached_graphs(self.code))


def not_whole(name: str, error: Exception) -> RuntimeError:
    """Return the error for a block that must compile as one graph and can't."""
    return RuntimeError(
        f"Compile Model+: {name} can't be compiled as one graph: {str(error).splitlines()[0]}. "
        "Switch fullgraph off to compile it in parts"
    )


def _without_options_keys(guards: Sequence[Any]) -> list[bool]:
    """Drop the guard on which keys transformer_options has: each entry that a block asks for has its own."""
    return [
        not (guard.guard_type == "DICT_KEYS_MATCH" and guard.name.endswith("kwargs['transformer_options']"))
        for guard in guards
    ]


def _run_block(
    block: nn.Module, args: tuple, kwargs: dict[str, Any], path: Path, batch_dim: int | None, missed: list[str]
) -> Any:
    if not torch.compiler.is_compiling():
        missed.append("no graph fits")
    if batch_dim is not None:
        stream = args[path[0]] if isinstance(path[0], int) else kwargs[path[0]]
        for key in path[1:]:
            stream = stream[key]
        torch._check(stream.shape[batch_dim] >= 1)
        torch._check(stream.shape[batch_dim] <= LARGEST_BATCH)
    return block(*args, **kwargs)
