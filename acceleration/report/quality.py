"""How near is one picture to another: PSNR and SSIM of image batches, per image and for the whole batch.

Images are ComfyUI's: (B, H, W, C), floats 0..1. PSNR is in dB (40 is hard to see, identical is infinite); SSIM is
Wang et al. 2004 (https://doi.org/10.1109/TIP.2003.819861), 1 is identical, by `kornia`, which ships with ComfyUI.
"""

import math
from dataclasses import dataclass

import torch

SSIM_WINDOW = 11


@dataclass(frozen=True)
class Quality:
    """PSNR (dB) and SSIM of each image of a batch against its reference."""

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def worst(self) -> int:
        """Index of the image with the lowest PSNR; one that is not a number counts as lowest."""
        return min(range(len(self.psnr)), key=lambda i: -math.inf if math.isnan(self.psnr[i]) else self.psnr[i])

    @property
    def mean_psnr(self) -> float:
        """PSNR (dB) of the mean squared error over the batch, so that one identical image does not make it infinite."""
        return _decibel(sum(10 ** (-value / 10) for value in self.psnr) / len(self.psnr))

    @property
    def mean_ssim(self) -> float:
        """Mean SSIM over the batch."""
        return sum(self.ssim) / len(self.ssim)


def compare(reference: torch.Tensor, result: torch.Tensor) -> Quality:
    """Return PSNR and SSIM of each image of `result` (B, H, W, C) against `reference` of the same shape.

    Raises `ValueError` when the shapes differ, the batch is empty or an image is too small for SSIM.
    """
    return Quality(tuple(psnr_each(reference, result)), tuple(ssim_each(reference, result)))


def psnr(reference: torch.Tensor, result: torch.Tensor) -> float:
    """Return the PSNR (dB) of the whole batch: of the mean squared error over all its images. Identical gives inf.

    Raises `ValueError` when the shapes differ or the batch is empty.
    """
    _check(reference, result)
    errors = _squared_errors(reference, result)
    return _decibel(sum(errors) / len(errors))


def psnr_each(reference: torch.Tensor, result: torch.Tensor) -> list[float]:
    """Return the PSNR (dB) of each image; `min()` of it is the worst. Raises as `psnr` does."""
    _check(reference, result)
    return [_decibel(error) for error in _squared_errors(reference, result)]


def ssim(reference: torch.Tensor, result: torch.Tensor) -> float:
    """Return the mean SSIM of the batch. Raises as `ssim_each` does."""
    each = ssim_each(reference, result)
    return sum(each) / len(each)


def ssim_each(reference: torch.Tensor, result: torch.Tensor) -> list[float]:
    """Return the SSIM of each image, mean over pixels and channels, Gaussian window of 11 pixels.

    Raises `ValueError` when the shapes differ, the batch is empty or a side is shorter than the window.
    """
    from kornia.metrics import ssim as ssim_map

    _check(reference, result)
    if min(reference.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {_size(reference)}: "
            "compare larger images, or use PSNR"
        )
    pairs = zip(reference, result, strict=True)  # one image at a time: a clip of 100 frames fits in memory
    return [float(ssim_map(_planes(one), _planes(other), SSIM_WINDOW).mean()) for one, other in pairs]


def _planes(image: torch.Tensor) -> torch.Tensor:
    return image.detach().float().cpu().movedim(-1, 0)[None].contiguous()  # (1, C, H, W)


def _squared_errors(reference: torch.Tensor, result: torch.Tensor) -> list[float]:
    pairs = zip(reference, result, strict=True)
    return [float((a.detach().cpu().double() - b.detach().cpu().double()).square().mean()) for a, b in pairs]


def _decibel(squared_error: float) -> float:
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def _size(images: torch.Tensor) -> str:
    if images.ndim != 4:
        return f"a tensor of shape {tuple(images.shape)}"
    count, height, width, channels = images.shape
    return f"{count} image(s) of {width} x {height} pixels with {channels} channels {tuple(images.shape)}"


def _check(reference: torch.Tensor, result: torch.Tensor) -> None:
    if reference.ndim != 4 or reference.shape != result.shape:
        raise ValueError(
            f"cannot compare: the reference is {_size(reference)}, the result is {_size(result)}. Both must be images "
            "(B, H, W, C) of the same shape: render both with the same width, height and batch size"
        )
    if reference.numel() == 0:
        raise ValueError(f"cannot compare: both batches are empty {tuple(reference.shape)}. Connect rendered images")
