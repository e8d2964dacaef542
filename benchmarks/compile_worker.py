"""One process of the compile benchmark: a start of ComfyUI, the first run, and whatever a user then changes."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dev.host import ROOT

WEIGHTS = ROOT / "demo" / "tiny_flux" / "tiny_flux_shapes.safetensors"
LORA = ROOT / "demo" / "tiny_flux" / "tiny_flux_lora.safetensors"
ROUNDS = 7
STEADY = {"64 x 64": 16, "256 x 256": 64}  # pixels, latent cells per side
STEADY_STEPS = {16: 10, 64: 2}


def work(methods: list[str], user: Path, steady: bool) -> dict[str, Any]:
    """Measure one method and its changes, or with `steady` several methods in turn once they are warm."""
    import folder_paths

    folder_paths.set_user_directory(str(user))
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True  # before anything imports attention
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():  # as ComfyUI runs nodes
        session = Session()
        return session.steady(methods) if steady else session.changes(methods[0])


class Session:
    """The tiny Flux, its plain runs, and the graphs that this process has compiled."""

    def __init__(self) -> None:
        import comfy.sd
        import torch
        from safetensors.torch import load_file

        # Without the counters of `TinyFlux`: hooks that count make torch.compile give up.
        self.plain = comfy.sd.load_diffusion_model_state_dict(
            load_file(WEIGHTS), model_options={"dtype": torch.float32}
        )
        self.run(self.plain)  # the first run imports what is imported late
        self.run(self.plain)

    def run(self, model: Any, steps: int = 1, side: int = 16, height: int | None = None, batch: int = 1, text: int = 1):
        """Sample and return the seconds."""
        import comfy.sample
        import torch

        from demo.tiny_flux.codecs import encode_prompt

        tokens, pooled = encode_prompt("a large red circle at the left on a blue background")
        words = [[torch.cat([tokens] * text, 1), {"pooled_output": pooled}]]
        latent = torch.zeros(batch, 16, height or side, side)
        noise = comfy.sample.prepare_noise(latent, 0)
        begin = time.perf_counter()
        out = comfy.sample.sample(
            model, noise, steps, 1.0, "euler", "simple", words, words, latent, seed=0, disable_pbar=True
        )
        seconds = time.perf_counter() - begin
        if not out.isfinite().all():
            raise RuntimeError("the latent holds NaN or infinity: this run says nothing")
        return seconds

    def changes(self, method: str) -> dict[str, Any]:
        """Return for the first run and each change the seconds above a later run of the same, and graphs compiled.

        The graphs are those of the first and the later runs: a compiler may need two runs to see what changes.
        """
        apply = METHODS[method]
        model, found = apply(self.plain), {}
        cases: dict[str, tuple[Any, dict[str, int]]] = {
            "first run": (model, {}),
            "another seed": (model, {}),
            "another resolution": (model, {"side": 24}),
            "a third resolution": (model, {"side": 20, "height": 28}),
            "a batch of 2": (model, {"batch": 2}),
            "a batch of 3": (model, {"batch": 3}),
            "a longer prompt": (model, {"text": 2}),
        }
        for name, (patched, settings) in cases.items():
            found[name] = self._change(patched, settings)
        del model  # as when the node runs again
        found["a LoRA"] = self._change(apply(_with_lora(self.plain, 1.0)), {})
        found["another strength"] = self._change(apply(_with_lora(self.plain, 0.5)), {})
        return found

    def _change(self, model: Any, settings: dict[str, int]) -> dict[str, float]:
        before = _graphs()
        first = self.run(model, **settings)
        again = statistics.median(self.run(model, **settings) for _ in range(3))
        return {"seconds": max(first - again, 0.0), "graphs": _graphs() - before}

    def steady(self, methods: list[str]) -> dict[str, Any]:
        """Return the median milliseconds per step of each method and size; they take turns."""
        models = {name: METHODS[name](self.plain) for name in methods}
        result = {}
        for label, side in STEADY.items():
            for model in models.values():
                self.run(model, side=side)
                self.run(model, side=side)
            steps, seconds = STEADY_STEPS[side], {name: [] for name in models}
            for _ in range(ROUNDS):
                for name, model in models.items():
                    seconds[name].append(self.run(model, steps, side) / steps)
            result[label] = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
        return result


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def _with_lora(model: Any, strength: float) -> Any:
    import comfy.sd
    from safetensors.torch import load_file

    return comfy.sd.load_lora_for_models(model, None, load_file(LORA), strength, 0.0)[0]


def _ours(model: Any) -> Any:
    from velocity_nodes.acceleration.compiling.compile import CompileConfig, apply_compile

    return apply_compile(model, CompileConfig())


def _core(model: Any) -> Any:
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    return TorchCompileModel.execute(model, "inductor").result[0]


METHODS: dict[str, Callable[[Any], Any]] = {"eager": lambda model: model, "core": _core, "ours": _ours}


def main(arguments: list[str]) -> None:
    """Entry of the process: methods, user directory, and whether to measure the steady state; prints JSON."""
    methods, user, kind = arguments
    begin = time.perf_counter()
    result = work(methods.split(","), Path(user), kind == "steady")
    sys.stdout.write(json.dumps({"result": result, "seconds": time.perf_counter() - begin, "pid": os.getpid()}) + "\n")
