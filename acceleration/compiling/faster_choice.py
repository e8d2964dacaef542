"""Finds out in the first model calls whether a model is faster compiled or not, for each shape of its input."""

import logging
import statistics
from dataclasses import dataclass, field

log = logging.getLogger("velocity")

SAMPLES = 3  # timed calls of each kind, behind one that compiles and is not timed


@dataclass
class _Trial:
    blocks: int = 0
    warm: bool = False
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    winner: bool | None = None


class FasterChoice:
    """Says for each call whether to run it compiled, and is told how long that took."""

    def __init__(self) -> None:
        self._trials: dict[tuple[int, ...], _Trial] = {}

    def decided(self, shape: tuple[int, ...]) -> bool:
        """Whether there is nothing left to measure for inputs of this shape."""
        return shape in self._trials and self._trials[shape].winner is not None

    def compiled(self, shape: tuple[int, ...]) -> bool:
        """Whether to run the next call with an input of this shape compiled."""
        trial = self._trials.setdefault(shape, _Trial())
        if trial.winner is not None:
            return trial.winner
        return not trial.warm or len(trial.seconds[True]) < len(trial.seconds[False])

    def note(self, shape: tuple[int, ...], compiled: bool, blocks: int, seconds: float) -> None:
        """Take the time of a call that ran `blocks` blocks: one that a step cache has cut short tells nothing."""
        trial = self._trials[shape]
        if blocks < trial.blocks:
            return
        if blocks > trial.blocks:
            trial.blocks, trial.seconds = blocks, {True: [], False: []}
        if not trial.warm:
            trial.warm = compiled
            return
        trial.seconds[compiled].append(seconds)
        if min(len(times) for times in trial.seconds.values()) < SAMPLES:
            return
        fast, plain = (statistics.median(trial.seconds[kind]) for kind in (True, False))
        trial.winner = fast < plain
        log.info(
            "Compile Model+: a step takes %.3f s compiled and %.3f s as it is; going on %s",
            fast,
            plain,
            "compiled" if trial.winner else "uncompiled",
        )
