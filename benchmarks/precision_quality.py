"""What a precision costs in quality: errors of single model calls, and of whole pictures of the trained tiny Flux."""

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from velocity_nodes.acceleration.report.quality import psnr

from demo.tiny_flux.codecs import encode_image, encode_prompt

from .precision_load import size_16
from .precision_methods import REFERENCE, load
from .tiny_flux import WEIGHTS, Settings, TinyFlux, prompts

SIGMAS = (1.0, 0.7, 0.4, 0.1)
SETTINGS = Settings("euler", "simple")
IDENTICAL = 99.0  # dB


@dataclass(frozen=True)
class Quality:
    """`error`: relative L2 of one call, mean over prompts and sigmas. PSNR in dB against the reference's pictures."""

    error: float
    psnr_mean: float
    psnr_worst: float
    size_16: int  # bytes of the weights, see `precision_load.size_16`
    weights: int  # number of weights


class QualityBench:
    """Paints and calls with the reference once, and holds every other model against that."""

    def __init__(self, count: int) -> None:
        self._flux = TinyFlux()
        self._prompts = prompts(count)
        reference = load(REFERENCE, str(WEIGHTS))
        self._weights = sum(weight.numel() for weight in reference.model.diffusion_model.parameters())
        self._pictures = self._paint(reference)
        self._calls = self._call(reference)

    def measure(self, method: str) -> Quality:
        """Return the quality of a method, over all prompts."""
        model = load(method, str(WEIGHTS))
        pairs = zip(self._calls, self._call(model), strict=True)
        errors = [float((output - expected).norm() / expected.norm()) for expected, output in pairs]
        pictures = zip(self._pictures, self._paint(model), strict=True)
        decibels = [min(psnr(*pair), IDENTICAL) for pair in pictures]
        mean_error, mean_psnr = sum(errors) / len(errors), sum(decibels) / len(decibels)
        return Quality(mean_error, mean_psnr, min(decibels), size_16(model), self._weights)

    def _paint(self, model: ModelPatcher) -> list[torch.Tensor]:
        """The picture (1, 64, 64, 3) of each prompt; its seed is its index."""
        runs = enumerate(self._prompts)
        return [self._flux.paint(model, SETTINGS, prompt, seed).picture for seed, prompt in runs]

    @torch.inference_mode()
    def _call(self, model: ModelPatcher) -> list[torch.Tensor]:
        """The model's output (1, 16, 16, 16) for each prompt and sigma, on the way from noise to the reference's
        picture. Core gives x - sigma * output."""
        outputs = []
        for seed, (prompt, picture) in enumerate(zip(self._prompts, self._pictures, strict=True)):
            clean = encode_image(picture.movedim(-1, 1) * 2 - 1)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
            tokens, pooled = encode_prompt(prompt)
            for sigma in SIGMAS:
                x = (1 - sigma) * clean + sigma * noise
                inputs = {"c_crossattn": tokens.clone(), "y": pooled.clone()}
                denoised = model.model.apply_model(x.clone(), torch.tensor([sigma]), **inputs)
                outputs.append((x - denoised) / sigma)
        return outputs
