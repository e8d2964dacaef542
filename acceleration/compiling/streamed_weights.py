"""Brings the weights of a whole block to the device before its compiled function runs, and lets them go behind it.

Where a model does not fit, core brings the weights of each layer (and applies a LoRA to them) inside of the layer's
forward, by calls that no compiled graph can hold. Here the same is done for all layers of a block at once, by the calls
that core itself makes ahead of a block (`comfy.model_prefetch`), and for the length of one call each layer looks as if
it had been loaded: one graph serves blocks that stay on the card and blocks that are streamed. The host does not wait
for the card, so the weights of the next block travel while this one computes.

There are two kinds: dynamic VRAM (comfy-aimdo; a layer's `_v` says where its weights may live on the card), and core's
classic low VRAM mode, where they lie in the computer's memory.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.ops
import torch
from comfy import model_management
from torch import nn

log = logging.getLogger("velocity")

NAMES = ("weight", "bias")
MARKS = ("weight_function", "bias_function", "_v", "comfy_cast_weights")  # of a layer that core streams


def can_stream_dynamic() -> bool:
    """Whether this core brings the weights of several layers in one call (0.30 does, 0.18 does not)."""
    return hasattr(comfy.ops, "cast_modules_with_vbar")


class StreamedWeights:
    """Knows of each block of a model whether its weights are streamed, for one run: core may move them in between."""

    def __init__(self) -> None:
        self._blocks: dict[tuple, StreamedBlock | None] = {}
        self._left_to_core: set[tuple] = set()
        self._said = False

    def forget(self) -> None:
        """Look again where the weights are."""
        self._blocks.clear()
        self._left_to_core.clear()

    def knows(self, place: tuple) -> bool:
        """Whether `look` was called for this block."""
        return place in self._blocks

    def look(self, place: tuple, block: nn.Module, stream: torch.Tensor) -> None:
        """Find out where the weights of `block` are; its input is on the device, and in the dtype, of `stream`."""
        try:
            self._blocks[place] = StreamedBlock.of(block, stream.device, stream.dtype)
        except ValueError as error:
            self._leave_to_core(place, str(error))

    @contextmanager
    def present(self, place: tuple) -> Iterator[bool]:
        """While open, the block's weights are on the device; False where its layers have to bring them themselves."""
        block = self._blocks[place]
        with ExitStack() as stack:
            if block is not None:
                try:
                    stack.enter_context(block.present())
                except model_management.OOM_EXCEPTION:
                    if block.dynamic:  # core makes room there, if any can be made
                        raise
                    self._leave_to_core(place, "there is no room for a whole block on the card")
            yield place not in self._left_to_core

    def _leave_to_core(self, place: tuple, reason: str) -> None:
        self._blocks[place] = None
        self._left_to_core.add(place)
        if not self._said:
            self._said = True
            log.warning(
                "Compile Model+: blocks run uncompiled, as %s: choose fp8 in Load Diffusion Model+, or a smaller "
                "picture",
                reason,
            )


class StreamedBlock:
    """The layers of one block whose weights are brought for each call."""

    def __init__(self, dynamic: list[nn.Module], classic: list[nn.Module], device: torch.device, dtype: torch.dtype):
        """`dtype` is that of the block's input: LoRAs are computed in it, as core does."""
        self.dynamic, self.classic = dynamic, classic
        self.device, self.dtype = device, dtype
        self.held: dict[tuple[nn.Module, str], tuple[torch.Tensor, nn.Parameter]] = {}

    @classmethod
    def of(cls, block: nn.Module, device: torch.device, dtype: torch.dtype) -> "StreamedBlock | None":
        """Return the block's layers that are streamed to `device`; None where all of them are there.

        Raises `ValueError` for a parameter that is elsewhere and in no layer of core's.
        """
        dynamic, classic = [], []
        for name, module in block.named_modules():
            _forget_own_default(module)
            elsewhere = any(value is not None and value.device != device for value in module._parameters.values())
            if not elsewhere and "_v" not in vars(module) and not _functions(module):
                continue
            if not type(module).__module__ == "comfy.ops":  # layers of other packs bring their weights in their own way
                raise ValueError(f"{type(module).__name__} {name} keeps its weights in a way of its own")
            (dynamic if "_v" in vars(module) else classic).append(module)
        return cls(dynamic, classic, device, dtype) if dynamic or classic else None

    @contextmanager
    def present(self) -> Iterator[None]:
        """While open, each layer holds its weights on the device, LoRAs applied, and has nothing left to stream."""
        with ExitStack() as stack:
            dynamic = stack.enter_context(self._brought_dynamic()) if self.dynamic else []
            classic = stack.enter_context(self._brought_classic()) if self.classic else []
            stack.enter_context(_as_if_loaded([*self.dynamic, *self.classic], [*dynamic, *classic]))
            yield

    @contextmanager
    def _brought_dynamic(self) -> Iterator[list[tuple]]:
        """Have dynamic VRAM bring what it does not hold on the card, and pin all of it there."""
        own = [module for module in self.dynamic if "_prefetch" not in vars(module)]  # the others core has brought
        stream = None
        try:
            if own:
                stream = comfy.ops.cast_modules_with_vbar(own, None, self.device, None, True)
                model_management.sync_stream(self.device, stream)
            yield [self._resolve(module) for module in self.dynamic]
        finally:
            self._let_go(stream)
            if own:
                from comfy.model_prefetch import cleanup_prefetched_modules

                cleanup_prefetched_modules(own)

    def _resolve(self, module: nn.Module) -> tuple:
        """Return (weight, bias) in the types in which they are kept: the layer casts them itself, within the graph."""
        weight, bias = (
            value if value is None else getattr(value, "_model_dtype", value.dtype)
            for value in (module.weight, module.bias)
        )
        found = comfy.ops.resolve_cast_module_with_vbar(module, weight, self.device, bias, self.dtype, True)
        return tuple(self._parameter(module, name, value) for name, value in zip(NAMES, found, strict=True))

    def _parameter(self, module: nn.Module, name: str, value: torch.Tensor | None) -> nn.Parameter | None:
        """Return the value as a parameter: the same one as long as dynamic VRAM holds the same weight on the card, as
        making one of a quantised weight takes the host longer than its product."""
        if value is None:
            return None
        known, parameter = self.held.get((module, name), (None, None))
        if known is not value:
            parameter = nn.Parameter(value, requires_grad=False)
            if value is vars(module).get(f"_v_{name}"):
                self.held[module, name] = value, parameter
        return parameter

    @contextmanager
    def _brought_classic(self) -> Iterator[list[list]]:
        """Copy the weights to the device, all in one stream, and apply what core would apply to them."""
        stream = model_management.get_offload_stream(self.device)
        fast = model_management.device_supports_non_blocking(self.device)
        try:
            brought = [
                [
                    value if value is None else model_management.cast_to(value, None, self.device, fast, stream=stream)
                    for value in (module.weight, module.bias)
                ]
                for module in self.classic
            ]
            model_management.sync_stream(self.device, stream)
            yield [
                [self._apply(value, functions) for value, functions in zip(values, _functions(module), strict=True)]
                if any(_functions(module))
                else values
                for module, values in zip(self.classic, brought, strict=True)
            ]
        finally:
            self._let_go(stream)

    def _apply(self, value: torch.Tensor | None, functions: list) -> torch.Tensor | None:
        """Return the weight with its patches, which may write into it, hence the copy."""
        if value is None or not functions:
            return value
        plain = value.dequantize() if isinstance(value, comfy.ops.QuantizedTensor) else value
        value = plain.to(self.dtype, copy=True)
        for function in functions:
            value = function(value)
        return value

    def _let_go(self, stream: Any) -> None:
        """Have the stream that brought the weights wait for their use before it brings others to their place."""
        if stream is not None:
            stream.wait_stream(model_management.current_stream(self.device))


def _forget_own_default(module: nn.Module) -> None:
    """Take off what says no more than its class: core leaves it on layers that it once streamed, and compiled code is
    for layers with it or for layers without."""
    own = vars(module)
    if own.get("comfy_cast_weights") is getattr(type(module), "comfy_cast_weights", None):
        own.pop("comfy_cast_weights", None)


def _functions(module: nn.Module) -> list[list]:
    """Return core's lists of what to apply to weight and bias; nothing where both are empty."""
    both = [getattr(module, f"{name}_function", []) for name in NAMES]
    return both if any(both) else []


@contextmanager
def _as_if_loaded(modules: list[nn.Module], weights: list) -> Iterator[None]:
    """While open, each module holds its (weight, bias), and none of core's marks of one that is streamed."""
    kept = []
    try:
        for module, values in zip(modules, weights, strict=True):
            own, parameters = vars(module), module._parameters
            before = {name: own.pop(name) for name in MARKS if name in own}
            kept.append((own, before, parameters, {name: parameters[name] for name in NAMES if name in parameters}))
            for name, value in zip(NAMES, values, strict=True):
                if value is not None:
                    own_kind = isinstance(value, nn.Parameter)
                    parameters[name] = value if own_kind else nn.Parameter(value, requires_grad=False)
            own.update(weight_function=[], bias_function=[])
            if "prev_comfy_cast_weights" in own and own["prev_comfy_cast_weights"] != module.comfy_cast_weights:
                own["comfy_cast_weights"] = own["prev_comfy_cast_weights"]
        yield
    finally:
        for own, before, parameters, values in kept:
            for name in MARKS:
                own.pop(name, None)
            own.update(before)
            parameters.update(values)
