"""Which samplers and which settings of each method `cache.py` runs: data, and `plan`, which makes methods of it."""

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from . import methods
from .targets import CHANGE, EASYCACHE, EASYCACHE_OURS, LAZYCACHE, LAZYCACHE_OURS, TAIL, VERIFIED
from .tiny_flux import Settings

EULER = Settings("euler", "simple")
SAMPLERS = (
    EULER,
    Settings("dpmpp_2m", "karras"),
    Settings("uni_pc", "simple"),
    Settings("res_multistep", "beta"),
    Settings("euler_ancestral", "simple"),
)


@dataclass(frozen=True)
class Grid:
    """What is varied: tolerances, thresholds by family, and numbers of steps."""

    tolerances: tuple[float, ...]
    first_block: dict[str, tuple[float, ...]]
    core: dict[str, tuple[float, ...]]
    steps: tuple[int, ...]
    second_order_steps: tuple[int, ...]


FULL = Grid(
    tolerances=(0.08, 0.25, 0.5, 1.2, 2.0),
    first_block={VERIFIED: (0.05, 0.3, 1.0), CHANGE: (0.1, 0.2, 0.3, 0.45), TAIL: (0.1, 0.2, 0.3)},
    core={
        EASYCACHE: (0.05, 0.1, 0.2, 0.4),
        EASYCACHE_OURS: (0.05, 0.1, 0.2, 0.5),
        LAZYCACHE: (0.1, 0.3),
        LAZYCACHE_OURS: (0.1, 0.3),
    },
    steps=(24, 20, 16, 14, 12, 10, 8, 7),
    second_order_steps=(16, 14, 12, 10, 8, 7),
)
OTHER = Grid(
    tolerances=(0.5, 1.5),
    first_block={VERIFIED: (1.0,), CHANGE: (0.1, 0.2, 0.35), TAIL: (0.1, 0.2)},
    core={
        EASYCACHE: (0.05, 0.1, 0.3),
        EASYCACHE_OURS: (0.05, 0.1, 0.2, 0.5),
        LAZYCACHE: (0.1,),
        LAZYCACHE_OURS: (0.1,),
    },
    steps=(20, 16, 14, 12, 10, 8),
    second_order_steps=(14, 12, 10, 8),
)
# With new noise at each step there is little to skip, and a run that skips nothing is a slow one.
NOISY = Grid(
    tolerances=(2.0,),
    first_block={CHANGE: (0.2,), TAIL: (0.2,)},
    core={EASYCACHE: (0.1,), EASYCACHE_OURS: (0.2,), LAZYCACHE: (0.1, 0.3), LAZYCACHE_OURS: (0.1,)},
    steps=(20, 14, 10),
    second_order_steps=(),
)


def plan(model: ModelPatcher, settings: Settings) -> list[methods.Method]:
    """Return every method to run with one sampler."""
    noisy = settings.sampler in methods.STOCHASTIC
    grid = NOISY if noisy else FULL if settings == EULER else OTHER
    return [
        *methods.forecast(settings, grid.tolerances),
        *methods.first_block(settings, grid.first_block),
        *methods.core_caches(model, settings, grid.core),
        *methods.fewer_steps(settings, grid.steps, grid.second_order_steps),
    ]
