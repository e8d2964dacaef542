"""Which parts of a conditioning are active at a noise level: where that changes, the model's output jumps.

A forecast across such a jump would be wrong, so the step cache starts its history anew there.
"""

import math
from typing import Any


def signature(conditioning: list[dict] | None, sigma: float) -> tuple | None:
    """Return a value that changes when an entry, ControlNet or hook keyframe of `conditioning` begins or ends."""
    if conditioning is None:
        return None
    return tuple(
        (entry.get("uuid"), _active(entry, sigma), *_controls(entry.get("control"), sigma)) for entry in conditioning
    )


def _active(entry: dict, sigma: float) -> tuple:
    started = sigma <= entry.get("timestep_start", math.inf)
    ended = sigma < entry.get("timestep_end", -math.inf)
    hooks = getattr(entry.get("hooks"), "hooks", ())
    keyframes = [getattr(hook.hook_keyframe, "keyframes", ()) for hook in hooks]
    return started, ended, tuple(sum(frame.start_t >= sigma for frame in frames) for frames in keyframes)


def _controls(control: Any, sigma: float) -> list[bool]:
    active = []
    while control is not None:
        begin, end = control.timestep_range or (math.inf, -math.inf)
        active.append(end <= sigma <= begin)
        control = control.previous_controlnet
    return active
