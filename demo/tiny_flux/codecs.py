"""Text and image codecs without weights: fixed word vectors, and a 4x4 DCT in place of a VAE.

The trained weights depend on every number here: the two seeds, the order of the vocabulary, the choice of DCT
coefficients and their scales.
"""

import math

import torch

from .words import PROMPT_WORDS, VOCABULARY, word_indices

TOKEN_WIDTH = 64
PATCH = 4  # pixels per latent cell, in each direction
COEFFICIENTS = ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2))  # kept per colour channel, 3 x 5 = 15 latent channels
SCALES = (0.55, 1.6, 1.6, 1.6, 1.6)
LUMA_COEFFICIENT, LUMA_SCALE = (2, 0), 1.6  # the 16th channel: one coefficient, averaged over the colours


def _fixed_normal(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, TOKEN_WIDTH, generator=torch.Generator().manual_seed(seed))


def encode_prompt(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens (1, 12, 64) and the pooled vector (1, 64) of `prompt`. Raises `ValueError` (unknown word)."""
    words = _fixed_normal(len(VOCABULARY), seed=7)
    positions = _fixed_normal(PROMPT_WORDS, seed=8) * 0.5
    tokens = (words[word_indices(prompt)] + positions)[None]
    return tokens, tokens.mean(1)


def _dct_matrix() -> torch.Tensor:
    """Return the orthonormal DCT-II matrix (4, 4): row = frequency, column = pixel."""
    rows = []
    for k in range(PATCH):
        scale = math.sqrt((1 if k == 0 else 2) / PATCH)
        rows.append([scale * math.cos(math.pi * (i + 0.5) * k / PATCH) for i in range(PATCH)])
    return torch.tensor(rows)


def encode_image(image: torch.Tensor) -> torch.Tensor:
    """Return the latent (B, 16, H/4, W/4) of `image` (B, 3, H, W) in -1..1.

    Raises `ValueError` when a side is not a multiple of 8: the model takes latent cells in pairs.
    """
    batch, channels, height, width = image.shape
    if channels != 3 or height % (2 * PATCH) or width % (2 * PATCH):
        raise ValueError(
            f"Tiny Flux encodes RGB images with sides that are multiples of {2 * PATCH}, got {channels} channels and "
            f"{width}x{height}: resize the image, 64x64 is best"
        )
    rows, columns = height // PATCH, width // PATCH
    # (B, 3, rows, 4, columns, 4) -> (B, 3, rows, columns, 4, 4)
    blocks = image.reshape(batch, 3, rows, PATCH, columns, PATCH).permute(0, 1, 2, 4, 3, 5)
    dct = _dct_matrix().to(image)
    spectrum = dct @ blocks @ dct.T
    kept = [spectrum[..., i, j] * scale for (i, j), scale in zip(COEFFICIENTS, SCALES, strict=True)]
    colours = torch.stack(kept, 2).reshape(batch, 15, rows, columns)  # (B, 3, 5, rows, columns) before
    i, j = LUMA_COEFFICIENT
    luma = spectrum[..., i, j].mean(1, keepdim=True) * LUMA_SCALE  # (B, 1, rows, columns)
    return torch.cat([colours, luma], 1)


def decode_latent(latent: torch.Tensor) -> torch.Tensor:
    """Return the image (B, 3, 4h, 4w), about -1..1 and not clamped, of `latent` (B, 16, h, w)."""
    batch, channels, rows, columns = latent.shape
    if channels != 16:
        raise ValueError(f"Tiny Flux decodes latents of 16 channels, got {channels}: use a Flux latent")
    spectrum = latent.new_zeros(batch, 3, rows, columns, PATCH, PATCH)
    colours = latent[:, :15].reshape(batch, 3, 5, rows, columns)
    for n, ((i, j), scale) in enumerate(zip(COEFFICIENTS, SCALES, strict=True)):
        spectrum[..., i, j] = colours[:, :, n] / scale
    i, j = LUMA_COEFFICIENT
    spectrum[..., i, j] = latent[:, 15:] / LUMA_SCALE
    dct = _dct_matrix().to(latent)
    blocks = dct.T @ spectrum @ dct
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(batch, 3, rows * PATCH, columns * PATCH)
