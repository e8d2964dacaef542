"""`python -m nox -s bench -- overhead`: what the nodes cost per step when they skip nothing.

The model is core's Flux class with random weights and over 100 million parameters. The tolerance is so small that every
step asks and none is skipped. A run of the plain model lies between any two others; each run is compared with the plain
ones beside it, and so are the plain ones themselves, which shows how far the machine can tell.
"""

import gc
import statistics
import time
from typing import Any

import comfy.ldm.flux.model
import comfy.ops
import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .targets import Verdict

HIDDEN, DOUBLE, SINGLE = 1024, 2, 2
TEXT_WIDTH, TEXT_TOKENS, POOLED_WIDTH = 64, 16, 64
LATENT = (1, 16, 16, 16)  # 64 tokens
STEPS, ROUNDS = 7, 8
MEASURED = slice(3, STEPS - 1)  # the steps in which both nodes decide
NEVER = 1e-9
LIMITS = {"Velocity Forecast": 1.0, "First Block Cache": 2.0}  # percent of a step


def measure_overhead(rounds: int = ROUNDS) -> list[Verdict]:
    """Return the verdicts on the cost of each node at a tolerance that skips nothing, and at 0."""
    plain = random_flux()
    models = {}
    for value in (NEVER, 0.0):
        models[f"Velocity Forecast, tolerance {value:g}"] = apply_velocity_forecast(plain, ForecastConfig(value))
        models[f"First Block Cache, threshold {value:g}"] = apply_first_block_cache(plain, FirstBlockCacheConfig(value))
    for one in (plain, *models.values()):  # warm up
        step_seconds(one)
    turns = list(models) * rounds
    base, mine = [step_seconds(plain)], []
    for name in turns:
        mine.append(step_seconds(models[name]))
        base.append(step_seconds(plain))
    percent = {name: [] for name in models}
    for name, seconds, before, after in zip(turns, mine, base, base[1:], strict=False):
        percent[name].append(_more(seconds, before, after))
    itself = [_more(*three) for three in zip(base[1:], base, base[2:], strict=False)]
    single, step = statistics.median(map(abs, itself)), 1000 * statistics.median(base)
    noise = single / rounds**0.5
    tells = f"{statistics.median(itself):+.2f} %, one run within {single:.2f} %, {rounds} within {noise:.2f} %"
    verdicts = [Verdict("overhead: no node against itself", f"0 % of a step of {step:.0f} ms", tells, None)]
    return verdicts + [_verdict(name, statistics.median(values), noise) for name, values in percent.items()]


def _more(seconds: float, before: float, after: float) -> float:
    """Return by how many percent a run is slower than the plain runs before and after it."""
    return 100 * (2 * seconds / (before + after) - 1)


def _verdict(name: str, percent: float, noise: float) -> Verdict:
    """Judge one node; where the noise is above half the limit nothing is decided."""
    limit = LIMITS[name.split(",")[0]]
    measured, met = f"{percent:+.2f} %", percent <= limit
    if noise > limit / 2:
        measured, met = f"{measured}, undecided: the machine is too busy, run it again on an idle one", None
    return Verdict(f"overhead: {name}", f"at most {limit:g} % of a step", measured, met)


def step_seconds(model: ModelPatcher) -> float:
    """Return the wall-clock seconds of the median of the steps in which a node would decide, in one run."""
    marks: list[float] = []

    def on_step(*_: Any) -> None:
        marks.append(time.perf_counter())

    words = [[torch.ones(1, TEXT_TOKENS, TEXT_WIDTH), {"pooled_output": torch.ones(1, POOLED_WIDTH)}]]
    latent = torch.zeros(LATENT)
    noise = comfy.sample.prepare_noise(latent, 0)
    gc.collect()
    comfy.sample.sample(
        model, noise, STEPS, 1.0, "euler", "simple", words, words, latent, callback=on_step, disable_pbar=True
    )
    # A callback comes behind the model call of its step: mark i to mark i + 1 is step i + 1.
    steps = [0.0, *(after - before for before, after in zip(marks, marks[1:], strict=False))]
    return statistics.median(steps[MEASURED])


def random_flux() -> ModelPatcher:
    """Return core's Flux with random weights, loaded as ComfyUI loads a checkpoint."""
    flux = comfy.ldm.flux.model.Flux(
        in_channels=16,
        out_channels=16,
        vec_in_dim=POOLED_WIDTH,
        context_in_dim=TEXT_WIDTH,
        hidden_size=HIDDEN,
        mlp_ratio=4.0,
        num_heads=HIDDEN // 128,
        depth=DOUBLE,
        depth_single_blocks=SINGLE,
        axes_dim=[16, 56, 56],
        theta=10000,
        patch_size=2,
        qkv_bias=True,
        guidance_embed=False,
        txt_ids_dims=[],
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
    generator = torch.Generator().manual_seed(0)
    weights = {name: _random(name, tensor, generator) for name, tensor in flux.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})
    count = sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())
    if count < 100_000_000:
        raise RuntimeError(f"the model has {count} parameters, the target is about one of at least 100 million")
    return model


def _random(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if tensor.ndim < 2:
        scale_of_a_norm = "norm" in name
        return torch.ones_like(tensor) if scale_of_a_norm else torch.zeros_like(tensor)
    return torch.randn(tensor.shape, generator=generator) * (0.7 * tensor.shape[-1] ** -0.5)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for verdict in measure_overhead():
        print(verdict.line())


if __name__ == "__main__":
    main()
