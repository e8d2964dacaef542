"""How much memory the history takes on a video: the engine really runs, on a model that costs nothing."""

import gc
from typing import Any

import comfy.model_base
import comfy.sample
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.caching.technique import Stream
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .targets import Verdict

LATENT = (1, 16, 21, 60, 104)  # Wan: 81 frames of 832 x 480
STEPS = 6


class _Cheap(torch.nn.Module):
    """A diffusion model without weights."""

    dtype = torch.float32

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Return something that changes with time, shape of `x`."""
        return x * timestep.flatten()[0] * 1e-3


def history_memory() -> list[Verdict]:
    """Return the most bytes that the history held during a run, without and with guidance, as information."""
    return [_measure(f"history of a Wan video {LATENT}, CFG {scale:g}", scale) for scale in (1.0, 5.0)]


def _measure(name: str, scale: float) -> Verdict:
    config = comfy.supported_models.WAN21_T2V({"image_model": "wan2.1"})
    base = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.FLOW, unet_model=lambda **_: _Cheap())
    cpu = torch.device("cpu")
    model = apply_velocity_forecast(ModelPatcher(base, cpu, cpu), ForecastConfig(order=1))
    most = 0

    def on_step(*_: Any) -> None:
        nonlocal most
        most = max(most, _held())

    latent = torch.zeros(LATENT)
    noise = comfy.sample.prepare_noise(latent, 0)
    words = [[torch.zeros(1, 8, 64), {}]], [[torch.ones(1, 8, 64), {}]]
    comfy.sample.sample(
        model, noise, STEPS, scale, "euler", "simple", *words, latent, callback=on_step, disable_pbar=True
    )
    size = noise.nbytes
    measured = f"{most / 2**20:.0f} MiB, {most / size:.0f} latents of {size / 2**20:.1f} MiB (fp32)"
    return Verdict(name, "a few latents", measured, None)


def _held() -> int:
    """Bytes of all tensors that the engine's streams refer to, each storage once."""
    storages: dict[int, int] = {}
    todo: list[Any] = [thing for thing in gc.get_objects() if type(thing) is Stream]
    while todo:
        thing = todo.pop()
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, list | tuple):
            todo.extend(thing)
        elif hasattr(thing, "__dict__"):
            todo.extend(vars(thing).values())
    return sum(storages.values())
