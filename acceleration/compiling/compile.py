"""Compile Model+: compiles each kind of block once (regional compilation) and leaves what is between them as it is.

The blocks of a model share code, so one graph for each kind serves all (PyTorch's regional compilation recipe; in
diffusers: compile_repeated_blocks). Step caches decide outside every graph. The compiled functions belong to the loaded
model, so another LoRA, strength, seed or order of nodes finds them again; they are freed a minute after the last node
that uses them is gone, and with the model.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from comfy.cli_args import args as command_line
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..blocks.allocation_graph import without_allocation_graph
from .compile_artifacts import Artifacts
from .static_model import without_dynamic_vram
from .streamed_weights import can_stream_dynamic
from .toolchain import BACKENDS, compile_options, problem

if TYPE_CHECKING:  # where they are used: torch takes a tenth of a second to register their operation
    from .compiled_blocks import CompiledBlocks
    from .compiled_model import CompiledModel

log = logging.getLogger("velocity")

KEY = "velocity_compile"
CORE_KEY = "torch.compile"  # of core's TorchCompileModel
STORE = "velocity_compiled"  # attribute of the loaded model
MODES = ("default", "max-autotune-no-cudagraphs", "max-autotune", "reduce-overhead")
WITHOUT_CUDA_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}
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
    _say_what_costs_time(config)
    mode = config.mode if config.scope == "whole model" else WITHOUT_CUDA_GRAPHS.get(config.mode, config.mode)
    options = compile_options(config.backend, mode, config.dynamic, config.fullgraph, model.load_device)
    run = _CompiledRun(config, options)
    store = run.store_of(model.model)
    streams = config.scope == "blocks" and can_stream_dynamic()
    compiled = model.clone() if streams else without_dynamic_vram(model)
    run.artifacts = Artifacts.of(compiled) if config.backend == "inductor" else None
    run.add(compiled.model, store)
    compiled.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)
    compiled.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    compiled.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.outer_sample)
    compiled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.apply_model)
    return compiled


class _CompiledRun:
    """What one node does with the models that are called with its options: mostly one, two under a dual guider."""

    def __init__(self, config: CompileConfig, options: dict[str, Any]) -> None:
        """`options` are those of `torch.compile`."""
        self.config, self.options = config, options
        self.artifacts: Artifacts | None = None
        self.models: weakref.WeakKeyDictionary[BaseModel, CompiledModel] = weakref.WeakKeyDictionary()

    @without_allocation_graph()
    def outer_sample(self, executor: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Bring the artifacts of earlier sessions before a sampling run, and keep new ones after it."""
        wrappers = executor.class_obj.model_options["transformer_options"].get("wrappers", {})
        if wrappers.get(WrappersMP.APPLY_MODEL, {}).get(CORE_KEY):
            raise ValueError("this model is compiled twice: remove or bypass TorchCompileModel, or Compile Model+")
        for model in self.models.values():
            model.store.begin_run()
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
        """Run the model that is called compiled, or as it is where that proved to be faster."""
        torch.compiler.cudagraph_mark_step_begin()
        base = executor.class_obj
        if base not in self.models:
            self.add(base, self.store_of(base))
        return self.models[base].run(executor, args, kwargs)

    def add(self, base: BaseModel, store: "CompiledBlocks") -> None:
        """Take a loaded model, with the functions to run it by. Raises `UnsupportedModelError`."""
        from .compiled_model import CompiledModel

        whole, keep_fastest = self.config.scope == "whole model", self.config.keep_fastest
        self.models[base] = CompiledModel(base.diffusion_model, store, whole, keep_fastest)
        weakref.finalize(self, _outlive, store)

    def store_of(self, base: BaseModel) -> "CompiledBlocks":
        """Return the compiled functions of a loaded model for this configuration, new ones if there are none yet."""
        from .compiled_blocks import CompiledBlocks

        stores = vars(base).setdefault(STORE, weakref.WeakValueDictionary())
        config = self.config
        key = (config.mode, config.backend, config.dynamic, config.fullgraph, config.scope)
        store = stores.get(key)
        if store is None:
            store = stores[key] = CompiledBlocks(**self.options)
        return store


def _say_what_costs_time(config: CompileConfig) -> None:
    """Log what the user's settings cost, once each time the node runs."""
    if config.scope == "blocks" and config.mode in WITHOUT_CUDA_GRAPHS:
        log.warning(
            "Compile Model+: CUDA graphs can't hold blocks that change their inputs or whose weights move; the mode "
            "%s runs as %s",
            config.mode,
            WITHOUT_CUDA_GRAPHS[config.mode],
        )
    if command_line.cache_none:
        log.info(
            "Compile Model+: with --cache-none ComfyUI loads the model anew for each prompt, and it is compiled anew, "
            "from disk in seconds; --cache-lru 1 keeps both"
        )


def _outlive(store: "CompiledBlocks") -> None:
    """Keep `store` for a while."""
    timer = threading.Timer(GRACE, lambda _: None, [store])
    timer.daemon = True
    timer.start()
