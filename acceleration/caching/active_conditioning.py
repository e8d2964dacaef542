"""Which parts of a conditioning are active at a noise level: where that changes, the model's output jumps.

A forecast across such a jump would be wrong, so the step cache starts its history anew there. And it changes what the
call costs.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch


def signature(conditioning: list[dict] | None, sigma: torch.Tensor) -> tuple | None:
    """Return a value that changes when an entry, ControlNet or hook keyframe of `conditioning` begins or ends.

    `sigma` is a single value on the CPU, in the sampler's own precision: core compares it as a tensor, so that a range
    that begins on a step begins there in spite of rounding.
    """
    if conditioning is None:
        return None
    return tuple(
        (entry.get("uuid"), _active(entry, sigma), *_controls(entry.get("control"), sigma)) for entry in conditioning
    )


def evaluations(
    conds: list[list[dict] | None], signatures: Sequence[tuple | None], size: Sequence[int]
) -> tuple[float, int]:
    """Return how many entries of `conds` are active, in latents of `size` (H, W), and how many ControlNets on them.

    `signatures` are those of `conds`. An entry for an area counts as much as its share of the latent.
    """
    active = [
        (_share(entry.get("area"), size), sum(controls))
        for conditioning, entries in zip(conds, signatures, strict=True)
        for entry, (_, (within, _), *controls) in zip(conditioning or (), entries or (), strict=True)
        if within
    ]
    return sum(share for share, _ in active), sum(controls for _, controls in active)


def _share(area: Sequence[int] | None, size: Sequence[int]) -> float:
    """Return the share of the latent that an area (sizes, then offsets; cells) covers."""
    sides = area[: len(area) // 2] if area else ()
    return math.prod(min(1.0, side / whole) for side, whole in zip(reversed(sides), reversed(size), strict=False))


def _active(entry: dict, sigma: torch.Tensor) -> tuple:
    begin, end = entry.get("timestep_start", math.inf), entry.get("timestep_end", -math.inf)
    hooks = getattr(entry.get("hooks"), "hooks", ())
    keyframes = [getattr(hook.hook_keyframe, "keyframes", ()) for hook in hooks]
    started = tuple(sum(bool(frame.start_t >= sigma) for frame in frames) for frames in keyframes)
    return _within(sigma, begin, end), started


def _controls(control: Any, sigma: torch.Tensor) -> list[bool]:
    active = []
    while control is not None:
        active.append(_within(sigma, *(control.timestep_range or (math.inf, -math.inf))))
        control = control.previous_controlnet
    return active


def _within(sigma: torch.Tensor, begin: float, end: float) -> bool:
    return not bool(sigma > begin or sigma < end)
