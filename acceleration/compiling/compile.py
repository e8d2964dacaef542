"""Compile Model+: compiles each kind of block once (regional compilation) and leaves what is between them as it is.

The blocks of a model share code, so one graph for each kind serves all (PyTorch's regional compilation recipe; in
diffusers: compile_repeated_blocks). Step caches decide outside every graph. The compiled functions belong to the loaded
model, so another LoRA, strength, seed or order of nodes finds them again; they are freed a minute after the last node
that uses them is gone, and with the model.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import nn

from ..blocks.allocation_graph import without_allocation_graph
from ..blocks.architectures import Stack
from ..blocks.block_stack import BlockCall, UnsupportedModelError, stacks_of, visit_blocks
from ..blocks.quantized_linear import opaque_products
from .compile_artifacts import Artifacts
from .compiled_blocks import CompiledBlocks
from .faster_choice import FasterChoice
from .static_model import without_dynamic_vram
from .streamed_weights import can_stream_dynamic
from .toolchain import BACKENDS, compile_options, problem

log = logging.getLogger("velocity")

KEY = "velocity_compile"
CORE_KEY = "torch.compile"  # of core's TorchCompileModel
STORE = "velocity_compiled"  # attribute of the loaded model
MODES = ("default", "max-autotune-no-cudagraphs", "max-autotune", "reduce-overhead")
SCOPES = ("blocks", "whole model")
GRACE = 60.0  # seconds that compiled functions outlive the last node that uses them: an edited graph finds them again


@dataclass(frozen=True)
class CompileConfig:
    """`mode` is of inductor. `dynamic`: auto (what changes between prompts), on (every size) or off (none).

    `fullgraph` refuses blocks that compile only in parts. `keep_fastest` measures and goes on without compiling where
    that is faster.
    """

    mode: str = "default"
    backend: str = "inductor"
    dynamic: str = "auto"
    fullgraph: bool = False
    scope: str = "blocks"
    keep_fastest: bool = False

    def __post_init__(self) -> None:
        if self.keep_fastest and self.scope == "whole model":
            raise ValueError("keep_fastest compares block by block; choose the scope 'blocks' with it")
        for name, known in {
            "mode": MODES,
            "backend": BACKENDS,
            "dynamic": ("auto", "on", "off"),
            "scope": SCOPES,
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(known)}")


def apply_compile(model: ModelPatcher, config: CompileConfig) -> ModelPatcher:
    """Return a clone of `model` that runs compiled; where there is no compiler, an unchanged clone and a log line.

    Raises `UnsupportedModelError` for a model whose blocks are not known.
    """
    weights = {parameter.dtype for parameter in model.model.diffusion_model.parameters()}
    reason = problem(config.backend, model.load_device, weights)
    if reason:
        log.warning("Compile Model+: the model runs uncompiled, as %s", reason)
        return model.clone()
    options = compile_options(config.backend, config.mode, config.dynamic, config.fullgraph, model.load_device)
    stacks = _known_stacks(model.model.diffusion_model) if config.scope == "blocks" else ()
    store = _store(model, config, options)
    streams = config.scope == "blocks" and can_stream_dynamic()
    compiled = model.clone() if streams else without_dynamic_vram(model)
    # Core's LoRA patches do so with the weights they change, and compiled code is for one of the two.
    compiled.model.diffusion_model.requires_grad_(False)
    compiled.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    compiled.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    run = _CompiledRun(store, config, stacks, Artifacts.of(compiled) if config.backend == "inductor" else None)
    weakref.finalize(run, _outlive, store)
    compiled.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.outer_sample)
    compiled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.apply_model)
    return compiled


class _CompiledRun:
    """What one node does with the compiled functions of its model."""

    def __init__(
        self,
        store: CompiledBlocks,
        config: CompileConfig,
        stacks: tuple[Stack, ...],
        artifacts: Artifacts | None,
    ) -> None:
        self.store, self.stacks, self.artifacts = store, stacks, artifacts
        self.whole = config.scope == "whole model"
        self.compiled_whole: nn.Module | None = None
        self.choice = FasterChoice() if config.keep_fastest else None

    @without_allocation_graph()
    def outer_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Bring the artifacts of earlier sessions before a sampling run, and keep new ones after it."""
        wrappers = executor.class_obj.model_options["transformer_options"].get("wrappers", {})
        if wrappers.get(WrappersMP.APPLY_MODEL, {}).get(CORE_KEY):
            raise ValueError("this model is compiled twice: remove or bypass TorchCompileModel, or Compile Model+")
        self.store.begin_run()
        if self.artifacts is None:
            return executor(*args, **kwargs)
        self.artifacts.load()
        stats = torch._dynamo.utils.counters["stats"]
        graphs = stats["unique_graphs"]
        try:
            return executor(*args, **kwargs)
        finally:
            if stats["unique_graphs"] > graphs:
                self.artifacts.save()

    def apply_model(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the model compiled, or as it is where that proved to be faster."""
        torch.compiler.cudagraph_mark_step_begin()
        self.store.begin_model_call(tuple(args[0].shape))
        base = executor.class_obj
        if self.whole:
            original = base.diffusion_model
            base.diffusion_model = self._compile_whole(original)
            try:
                with opaque_products(original):
                    return executor(*args, **kwargs)
            finally:
                base.diffusion_model = original
        if self.choice is not None:
            return self._fastest(executor, args, kwargs)
        with visit_blocks(base.diffusion_model, self.store.visit, self.stacks):
            return executor(*args, **kwargs)

    def _compile_whole(self, diffusion_model: nn.Module) -> nn.Module:
        if self.compiled_whole is None:
            from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

            options = {**self.store.options.get("options", {}), "guard_filter_fn": skip_torch_compile_dict}
            self.compiled_whole = torch.compile(diffusion_model, **{**self.store.options, "options": options})
        return self.compiled_whole

    def _fastest(self, executor: Callable, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        """Run the model compiled or not, and take the time until it is clear which is faster."""
        shape, device = tuple(args[0].shape), args[0].device
        compiled, decided, blocks = self.choice.compiled(shape), self.choice.decided(shape), 0
        if decided and not compiled:
            return executor(*args, **kwargs)

        def visit(call: BlockCall) -> Any:
            nonlocal blocks
            blocks += 1
            return self.store.visit(call) if compiled else call.run()

        _wait(device, not decided)
        start = time.perf_counter()
        with visit_blocks(executor.class_obj.diffusion_model, visit, self.stacks):
            output = executor(*args, **kwargs)
        _wait(device, not decided)
        if not decided:
            self.choice.note(shape, compiled, blocks, time.perf_counter() - start)
        return output


def _store(model: ModelPatcher, config: CompileConfig, options: dict[str, Any]) -> CompiledBlocks:
    """Return the compiled functions of the loaded model for this configuration, new ones if there are none yet."""
    base = model.model
    if STORE not in vars(base):
        vars(base)[STORE] = weakref.WeakValueDictionary()
    stores = vars(base)[STORE]
    key = (config.mode, config.backend, config.dynamic, config.fullgraph, config.scope)
    store = stores.get(key)
    if store is None:
        store = stores[key] = CompiledBlocks(**options)
    return store


def _known_stacks(diffusion_model: nn.Module) -> tuple[Stack, ...]:
    try:
        return stacks_of(diffusion_model)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"Compile Model+ does not know the blocks of {type(diffusion_model).__name__}; choose the scope "
            "'whole model', which needs no blocks"
        ) from error


def _outlive(store: CompiledBlocks) -> None:
    """Keep `store` for a while."""
    timer = threading.Timer(GRACE, lambda _: None, [store])
    timer.daemon = True
    timer.start()


def _wait(device: torch.device, needed: bool) -> None:
    if needed and device.type == "cuda":
        torch.cuda.synchronize(device)
