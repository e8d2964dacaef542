"""Step caches and a latent packed of parts, a large video beside a small sound: each is judged by itself.

Stand-ins for the model's output tell exactly how either part behaves; the sound has a noise schedule of its own.
"""

import math
from collections.abc import Callable

import comfy.conds
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfy.utils
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from velocity_nodes.acceleration.caching.forecast import History
from velocity_nodes.acceleration.caching.packed_latent import part_sizes
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .sampling import last_record
from .test_cache_models import build
from .tiny_models import LTX_AV, Draw

VIDEO, SOUND = (1, 4, 4, 64, 64), (1, 8, 3, 16)
STEPS = 24


def steady(_time: torch.Tensor) -> float:
    """Return the factor of a velocity that never changes."""
    return 1.0


def bending(time: torch.Tensor) -> torch.Tensor:
    """Return the factor of a velocity that nearly is a straight line."""
    return 1.0 + 0.6 * time * time


def restless(time: torch.Tensor) -> torch.Tensor:
    """Return the factor of a velocity that no straight line follows."""
    return 1.0 + torch.cos(9.0 * time)


@pytest.fixture(scope="module")
def audio_video():
    """Return a tiny LTX-2."""
    return build(comfy.supported_models.LTXAV, {"image_model": "ltxav", **LTX_AV})


def sample(model, video: Callable, sound: Callable, sampler: Callable | str = "euler") -> tuple[list, list[bool]]:
    """Sample with a denoiser whose velocity is a fixed one times a factor; return the parts and which steps were full.

    The factors of both parts are functions of the time.
    """

    def denoiser(_apply_model, args: dict) -> torch.Tensor:
        x, time = args["input"], args["timestep"][0]
        fixed = [Draw(part)(*shape) for part, shape in enumerate(args["c"]["latent_shapes"])]
        velocity, _ = comfy.utils.pack_latents([fixed[0] * video(time), fixed[1] * sound(time)])
        return x - velocity * time

    model = apply_velocity_forecast(model, ForecastConfig(tolerance=0.5))
    model.set_model_unet_function_wrapper(denoiser)
    latent = NestedTensor((torch.zeros(VIDEO), torch.zeros(SOUND)))
    noise, conds = comfy.sample.prepare_noise(latent, 3), [[torch.zeros(1, 5, 32), {}]]
    sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else comfy.samplers.KSAMPLER(sampler)
    out = comfy.sample.sample_custom(
        model, noise, 1.0, sampler, torch.linspace(1.0, 0.0, STEPS + 1), conds, conds, latent, disable_pbar=True, seed=3
    )
    return out.unbind(), [step.full for step in last_record(model).steps]


def test_the_worst_part_decides(audio_video) -> None:
    full = {
        (video.__name__, sound.__name__): sum(sample(audio_video, video, sound)[1])
        for video in (steady, restless)
        for sound in (steady, restless)
    }
    assert full["steady", "steady"] < 8
    assert full["steady", "restless"] == full["restless", "steady"] == full["restless", "restless"] > 12


def noisy(noise: Callable[[int], float], begin: int) -> Callable:
    """Return Euler's method with `noise(step)` times fresh noise on what lies from `begin` on."""

    def sampler(model, x, sigmas, extra_args=None, **_) -> torch.Tensor:
        draw = Draw(1)
        for step in range(STEPS):
            x = x + (x - model(x, sigmas[step][None], **extra_args)) * (sigmas[step + 1] / sigmas[step] - 1.0)
            part = x[..., begin:]
            part.add_(draw(*part.shape), alpha=noise(step))
        return x

    return sampler


@pytest.mark.parametrize("begin", [0, math.prod(VIDEO)], ids=["all of it", "the sound"])
def test_fresh_noise_in_one_part_is_a_jump(audio_video, begin: int) -> None:
    _, undisturbed = sample(audio_video, steady, steady)
    _, full = sample(audio_video, steady, steady, noisy(lambda step: float(step == 12), begin))
    assert full[:13] == undisturbed[:13]
    assert not undisturbed[13] and full[13]


def test_a_sampler_that_leaves_the_way_in_one_part(audio_video) -> None:
    """Noise in each step, as ancestral samplers add it: what is forecast wrong there is not taken back later."""
    _, undisturbed = sample(audio_video, steady, bending)
    _, full = sample(audio_video, steady, bending, noisy(lambda _: 0.1, math.prod(VIDEO)))
    assert sum(full) > sum(undisturbed) + 3


def test_what_changes_in_a_small_part_shows_in_what_guidance_amplifies() -> None:
    """First Block Cache's probe sees the model as a whole; a part that changes more than it counts for more."""
    one, parts = History(1), History(1, (1000, 10))
    for time, sound in ((0.9, 1.0), (0.8, 2.0)):
        velocity = torch.cat([torch.full((1, 1, 1, 1000), 1.0 - time / 100), torch.full((1, 1, 1, 10), sound)], dim=-1)
        for history in (one, parts):
            history.add(time, velocity, [[1.0]])
    assert one.amplification(0.7) == 1.0
    assert parts.amplification(0.7) == pytest.approx(5, rel=0.1)


def test_a_part_of_zeros_is_never_wrong() -> None:
    history = History(1, (4, 2))
    for time in (0.9, 0.8, 0.7):
        history.add(time, torch.tensor([1.0, 1.0, time, time, 0.0, 0.0]).view(1, 1, 1, 6), [[1.0]])
    assert history.error(0.6)[1].item() == 0.0 < history.error(0.6)[0].item() < 1e-3


def test_parts_are_those_that_the_model_is_told() -> None:
    """Core's context windows call the model with a part of each part, and tell it so."""
    whole, window = torch.zeros(2, 1, 200), torch.zeros(2, 1, 110)
    shapes, told = [(2, 2, 10, 9), (2, 20)], [(2, 2, 5, 9), (2, 20)]
    conds = [None, [{"model_conds": {"latent_shapes": comfy.conds.CONDConstant(told)}}]]
    assert part_sizes(whole, [None], shapes) == (180, 20)
    assert part_sizes(window, conds, shapes) == (90, 20)
    assert part_sizes(window, [], shapes) == (110,)  # no part of it is known
    assert part_sizes(torch.zeros(1, 4, 8, 8), [], None) == (256,)
