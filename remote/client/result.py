"""A job's result, held to what a sampler makes of what it was given: another server may have made it."""

from collections.abc import Iterable
from typing import Any

import torch

from ..wire.blob import BlobError
from ..wire.container import read_container
from ..wire.values import unpack
from .answers import bad_answer
from .cut import Cut

# Core's samplers: their latent has the shape of the one that they start from.
KEEP_SHAPE = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"})
MAX_RATIO = 64  # pixels that one place of a latent stands for, along a side
EMPTY_ROOM = 256 << 20  # bytes of tensors that came as one number, which is a few bytes
ROOM = 16  # bytes of tensors for each byte that came: rows of zeros and smaller dtypes are packed


def latents(data: bytes, blobs: Iterable[tuple[str, bytes]], cut: Cut, values: list[list]) -> list[dict[str, Any]]:
    """Return the latents in the result container `data`; `blobs` were sent with the job, `values` are the cuts' items.

    Raises `BlobError` for a broken container, and `EndpointError` for what is no list of latents of the right shape.
    """
    packed, known = read_container(data, blobs)
    most = EMPTY_ROOM + ROOM * sum(map(len, known.values()))
    try:
        items = unpack(packed, known.__getitem__, most)
    except RuntimeError as error:  # torch's own, for sizes that it can't make
        raise BlobError(f"the result holds a tensor that can't be made ({error})") from error
    if not isinstance(items, list) or not items:
        raise bad_answer("a result that is no list of latents")
    starts = _starts(cut, values)
    for number, item in enumerate(items):
        _check(item, starts[min(number, len(starts) - 1)] if starts else None)
    return items


def _starts(cut: Cut, values: list[list]) -> list[dict[str, Any]]:
    """Return the latents that the last sampler starts from, none if they are made there, or by no sampler of core's."""
    node = cut.graph[cut.output[0]]
    link = node["inputs"].get("latent_image")
    known = node["class_type"] in KEEP_SHAPE and isinstance(link, dict) and "@cut" in link
    return values[link["@cut"]] if known else []


def _check(item: Any, start: dict[str, Any] | None) -> None:
    samples = item.get("samples") if isinstance(item, dict) else None
    parts = getattr(samples, "tensors", [samples])  # nested ones, of video with sound
    if not all(isinstance(part, torch.Tensor) and part.is_floating_point() and part.numel() for part in parts):
        raise bad_answer("a result without latents in it")
    before = start.get("samples") if isinstance(start, dict) else None
    if not isinstance(before, torch.Tensor):
        return
    if len(parts) != 1 or not _may_come_of(tuple(parts[0].shape), before, start):
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise bad_answer(f"a latent of shape {shapes}, made from one of {list(before.shape)}")


def _may_come_of(shape: tuple[int, ...], before: torch.Tensor, start: dict[str, Any]) -> bool:
    """Whether core makes a latent of this shape of `before` (comfy.sample.fix_empty_latent_channels): a picture may
    become a video of one frame, and an empty latent is brought to the model's channels and scales."""
    was = tuple(before.shape)
    if len(was) == 4 and len(shape) == 5:
        was = (*was[:2], 1, *was[2:])
    if shape == was:
        return True
    if torch.count_nonzero(before) or len(shape) != len(was) or shape[0] != was[0]:
        return False
    scale = start.get("downscale_ratio_spacial")
    frames = slice(2, -2) if start.get("downscale_ratio_temporal") is None else slice(0, 0)
    sides = [was[-2:]] if scale is None else [_scaled(was[-2:], scale / ratio) for ratio in range(1, MAX_RATIO + 1)]
    return shape[frames] == was[frames] and shape[-2:] in sides


def _scaled(sides: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(round(side * factor) for side in sides)
