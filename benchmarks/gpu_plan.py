"""What the short forms of `gpu.py` measure, the most telling first; cases of one model stay together."""

from collections.abc import Iterator

from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, apply_first_block_cache
from velocity_nodes.acceleration.caching.velocity_forecast import ForecastConfig, apply_velocity_forecast

from .gpu_cases import Apply, Case, compile_core, compile_ours
from .gpu_models import FLUX, SDXL, TINY, WAN_SMALL, Workload

NEVER, ALWAYS = 1e-9, 1e9  # tolerances with which every step decides, and none is skipped, or all that may be
QUICK_STEPS, LOW_STEPS = 8, 5
BUILD = {FLUX.name: 15.0}  # seconds to expect for weights that are not there yet; for others a few
KINDS, WHOLE = 50.0, 100.0  # seconds to expect of a compiler: one kind of block after another, a whole model


def quick(tiny: bool) -> Iterator[tuple[Workload, Case, int]]:
    """Yield workload, case and steps of the one table."""
    backend = "eager" if tiny else "inductor"
    ours, core = compile_ours(backend), compile_core(backend)
    flux, sdxl, wan = (TINY[0], None, TINY[1]) if tiny else (FLUX, SDXL, WAN_SMALL)
    fp8 = [
        Case("fp8 fast", "fp8 fast"),
        Case("fp8 fast, Compile Model+", "fp8 fast", (ours,), compiles=True),
        Case("fp8 scaled", "fp8 scaled"),
    ]
    plain = [Case("bf16", "bf16"), *_caches(), Case("bf16, Compile Model+", "bf16", (ours,), compiles=True)]
    order = [(flux, plain), (flux, fp8), (sdxl, plain), (wan, plain), (wan, fp8[:2])]
    order += [(flux, [Case("fp8 scaled, Compile Model+", "fp8 scaled", (ours,), compiles=True)])]
    order += [(work, [_whole(core)]) for work in (sdxl, wan, flux)]
    for work, cases in order:
        yield from ((work, case, QUICK_STEPS) for case in cases if work is not None)


def low_vram(tiny: bool) -> Iterator[tuple[Workload, Case, int]]:
    """Yield the same for a card that the model does not fit into."""
    ours = compile_ours("eager" if tiny else "inductor")
    for precision in ("bf16", "fp8 scaled"):
        for case in (
            Case(precision, precision),
            Case(f"{precision}, Compile Model+", precision, (ours,), compiles=True),
        ):
            yield TINY[0] if tiny else FLUX, case, LOW_STEPS


def expected(work: Workload, case: Case, new: bool) -> float:
    """Return the seconds that a case will take; `new`: its weights have to be made."""
    compiler = (WHOLE if "TorchCompileModel" in case.name else KINDS) if case.compiles else 0.0
    return compiler + 5.0 + (BUILD.get(work.name, 5.0) if new else 0.0)


def _whole(core: Apply) -> Case:
    return Case("bf16, TorchCompileModel", "bf16", (core,), compiles=True)


def _caches() -> list[Case]:
    def forecast(tolerance: float) -> Apply:
        return lambda model: apply_velocity_forecast(model, ForecastConfig(tolerance=tolerance))

    def first_block(threshold: float) -> Apply:
        config = FirstBlockCacheConfig(residual_diff_threshold=threshold, start_percent=0.0)
        return lambda model: apply_first_block_cache(model, config)

    found = []
    for title, cache in (("Velocity Forecast", forecast), ("First Block Cache", first_block)):
        found += [Case(f"bf16, {title}, full step", "bf16", (cache(NEVER),))]
        found += [Case(f"bf16, {title}, skipped step", "bf16", (cache(ALWAYS),), skipped=True)]
    return found
