"""The tiny trained Flux inside this process: paints, takes the time, and counts what the model really computes."""

import random
import time
from dataclasses import dataclass, replace

import comfy.sample
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import load_file

from demo.tiny_flux.codecs import decode_latent, encode_prompt
from demo.tiny_flux.drawing import Scene
from demo.tiny_flux.words import COLOURS, PLACES, SHAPES, SIZES
from dev.host import ROOT

WEIGHTS = ROOT / "demo" / "tiny_flux" / "tiny_flux_shapes.safetensors"
STEPS = 28


@dataclass(frozen=True)
class Settings:
    """What the user chose in the sampler node."""

    sampler: str
    scheduler: str
    steps: int = STEPS

    def with_steps(self, steps: int, sampler: str | None = None) -> "Settings":
        """Return the same with other steps and, if given, another sampler."""
        return replace(self, steps=steps, sampler=sampler or self.sampler)

    def __str__(self) -> str:
        return f"{self.sampler} {self.scheduler}"


@dataclass(frozen=True)
class Painting:
    """One run: the picture (1, H, W, 3) in 0..1, seconds of sampling (wall clock and CPU), whole and begun calls."""

    picture: torch.Tensor
    seconds: float
    cpu_seconds: float
    full_calls: int
    begun_calls: int


class TinyFlux:
    """The model and a counter of its first and last block: a call that stops after block 0 or skips the rest is no
    full call, whichever node did that."""

    def __init__(self) -> None:
        self.model = comfy.sd.load_diffusion_model_state_dict(
            load_file(WEIGHTS), model_options={"dtype": torch.float32}
        )
        self._begun = self._full = 0
        diffusion_model = self.model.model.diffusion_model
        diffusion_model.double_blocks[0].register_forward_hook(self._count_begun)
        diffusion_model.single_blocks[-1].register_forward_hook(self._count_full)

    def paint(self, model: ModelPatcher, settings: Settings, prompt: str, seed: int) -> Painting:
        """Sample `prompt` in 64x64 pixels at CFG 1 with `model`, a clone of this one."""
        tokens, pooled = encode_prompt(prompt)
        conditioning = [[tokens, {"pooled_output": pooled}]]
        latent = torch.zeros(1, 16, 16, 16)
        noise = comfy.sample.prepare_noise(latent, seed)
        self._begun = self._full = 0
        cpu, start = time.process_time(), time.perf_counter()
        sampled = comfy.sample.sample(
            model,
            noise,
            settings.steps,
            1.0,
            settings.sampler,
            settings.scheduler,
            conditioning,
            conditioning,
            latent,
            seed=seed,
            disable_pbar=True,
        )
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        image = decode_latent(self.model.model.latent_format.process_in(sampled))
        picture = ((image + 1) / 2).clamp(0, 1).movedim(1, -1)
        return Painting(picture, seconds, cpu_seconds, self._full, self._begun)

    def _count_begun(self, *_: object) -> None:
        self._begun += 1

    def _count_full(self, *_: object) -> None:
        self._full += 1


def prompts(count: int) -> list[str]:
    """Return `count` prompts, always the same ones; the seed of each is its index."""
    generator = random.Random(3)
    scenes = []
    for _ in range(count):
        colour, background = generator.sample(list(COLOURS), 2)
        size, shape, place = (generator.choice(list(words)) for words in (SIZES, SHAPES, PLACES))
        scenes.append(Scene(size, colour, shape, place, background).prompt())
    return scenes
