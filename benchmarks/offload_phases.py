"""The phases of the offload benchmark. Both sides take turns, so a machine that slows down slows both."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .offload_jobs import PROMPTS, TinyJob, TinyJobs
from .offload_relay import Relay
from .offload_sides import BenchEndpoint, Times, Worker, offloaded

MS = 1e3


@dataclass(frozen=True)
class Effort:
    """How much to measure: pairs of single jobs, watched jobs, rounds of `jobs` queued jobs of `clients`,
    `counted` jobs on each side whose CPU time is."""

    pairs: int = 40
    watched: int = 10
    rounds: int = 3
    jobs: int = 64
    clients: int = 8
    batch: int = 8
    steps: int = 28
    counted: int = 24


QUICK = Effort(pairs=4, watched=2, rounds=1, jobs=8, clients=2, batch=4, steps=6, counted=4)


async def measure_endpoint(endpoint: BenchEndpoint, effort: Effort) -> dict[str, Any]:
    """Return all phases that need the endpoint."""
    jobs = TinyJobs(effort.steps)
    async with Worker(endpoint.worker_url, endpoint.worker_headers) as worker:
        await offloaded(endpoint.url, jobs.new())  # loads the model
        await worker.run(jobs.new())
        data = {}
        for phase in (_single, _cpu, _rerun, _previews, _queue, _batching):
            name, begin = phase.__name__.removeprefix("_"), time.monotonic()
            data[name] = await phase(endpoint, worker, jobs, effort)
            print(f"  {name}: {time.monotonic() - begin:.0f} s", flush=True)
    return data


async def _single(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """One job after the other on an idle worker, in milliseconds; `added` is from pair to pair."""
    straight, ours = [], []
    for number in range(effort.pairs):
        turns = [(worker.run, straight), (lambda job: offloaded(endpoint.url, job), ours)]
        for run, times in turns if number % 2 else turns[::-1]:
            times.append(await run(jobs.new()))
    added = [MS * (b.seconds - a.seconds) for a, b in zip(straight, ours, strict=True)]
    return {
        "added": _spread(added),
        "first_event": _spread([MS * (run.first_event - run.begin) for run in ours]),
        "straight": _parts(straight),
        "offloaded": _parts(ours),
        "pairs": [[MS * a.seconds, MS * b.seconds] for a, b in zip(straight, ours, strict=True)],
    }


def _parts(runs: Sequence[Times]) -> dict[str, float]:
    """Return medians: until it runs, until the last step, until the result is there, and all."""
    parts = {
        "until it runs": [run.running - run.begin for run in runs],
        "steps": [run.last_step - run.running for run in runs],
        "behind the steps": [run.end - run.last_step for run in runs],
        "all": [run.seconds for run in runs],
    }
    return {name: MS * statistics.median(values) for name, values in parts.items()}


async def _cpu(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """CPU milliseconds of the endpoint's process and of its worker's, one job after the other, through the endpoint
    and straight to the worker. `job` is a whole job; `step` what a step more costs, from jobs with one step."""
    short = TinyJobs(1, first_seed=1_000_000)
    sides = {"offloaded": lambda job: offloaded(endpoint.url, job), "straight": worker.run}
    spent: dict[str, dict[str, float]] = {}
    for side, run in sides.items():
        whole, least = [await _cpu_of(endpoint, run, kind, effort.counted) for kind in (jobs, short)]
        for process in whole:
            step = (whole[process] - least[process]) / (effort.steps - 1)
            spent[f"{process}, {side}"] = {"job": whole[process], "step": step}
    return spent


async def _cpu_of(
    endpoint: BenchEndpoint, run: Callable[[TinyJob], Awaitable[Times]], jobs: TinyJobs, count: int
) -> dict[str, float]:
    """Return the CPU milliseconds per job of each process."""
    before = endpoint.cpu()
    for _ in range(count):
        await run(jobs.new())
    return {process: MS * (seconds - before[process]) / count for process, seconds in endpoint.cpu().items()}


async def _rerun(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """A prompt that is new to the endpoint, then the same one with another seed: bytes of bodies and of everything."""
    runs = {}
    for name in ("new prompt", "other seed"):
        async with Relay(endpoint.port) as relay:
            times = await offloaded(relay.url, jobs.new(PROMPTS[1]))
            runs[name] = {"bodies": times.bytes_sent, "sent": relay.sent, "received": relay.received}
    return runs


async def _previews(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """Milliseconds from the end of a step's model call, inside the worker, to the arrival of its preview here."""
    first, later = [], []
    for _ in range(effort.watched):
        before = len(endpoint.clock()) if first else 0
        times = await offloaded(endpoint.url, jobs.new(clock=True))
        clock = endpoint.clock()[before:]
        if len(clock) != effort.steps or not times.previews:
            raise RuntimeError(f"{len(clock)} model calls and {len(times.previews)} previews for {effort.steps} steps")
        delays = [MS * (when - clock[step - 1]) for when, step in times.previews]
        first.append(delays[0])
        later += delays[1:]
    return {"first": _spread(first), "later": _spread(later) if later else None}


async def _queue(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """All jobs at once from several clients, against all prompts at once in the worker's own queue.

    `pause` is the median of the milliseconds from the end of a prompt to the begin of the next one in the worker,
    `waited` the seconds that it was ready to compute and had no core, `cpu` the milliseconds of the
    endpoint's process per job.
    """
    seconds: dict[str, list[float]] = {"straight": [], "offloaded": []}
    pauses: dict[str, list[float]] = {"straight": [], "offloaded": []}
    waited = {"straight": 0.0, "offloaded": 0.0}
    cpu = {"straight": 0.0, "offloaded": 0.0}
    lost = doubled = equal = 0
    for number in range(effort.rounds):
        for side in ("straight", "offloaded") if number % 2 else ("offloaded", "straight"):
            given = [jobs.new() for _ in range(effort.jobs)]
            hashes = []
            begin, waited_before, cpu_before = time.monotonic(), endpoint.waited(), endpoint.cpu()["endpoint"]
            if side == "straight":
                await asyncio.gather(*(worker.run(job) for job in given))
            else:
                hashes = await _from_clients(endpoint.url, given, effort.clients)
            seconds[side].append(time.monotonic() - begin)
            waited[side] += endpoint.waited() - waited_before
            cpu[side] += endpoint.cpu()["endpoint"] - cpu_before
            seeds = {job.seed for job in given}
            ran = [run for run in await worker.history() if run.seed in seeds]
            pauses[side] += [MS * (after.begin - run.end) for run, after in itertools.pairwise(ran)]
            if side == "offloaded":
                lost += len(seeds) - len({run.seed for run in ran})
                doubled += len(ran) - len({run.seed for run in ran})
                equal += len(given) - len(set(hashes))
    return {
        "jobs": effort.jobs,
        "clients": effort.clients,
        "seconds": seconds,
        "ratio": sum(seconds["straight"]) / sum(seconds["offloaded"]),
        "pause": {side: statistics.median(values) for side, values in pauses.items()},
        "waited": waited,
        "cpu": {side: MS * value / (effort.rounds * effort.jobs) for side, value in cpu.items()},
        "lost": lost,
        "doubled": doubled,
        "equal": equal,
    }


async def _from_clients(url: str, jobs: Sequence[TinyJob], clients: int) -> list[str]:
    """Have each client submit its share at once; return the results' hashes."""

    async def client(share: Sequence[TinyJob]) -> list[Times]:
        return await asyncio.gather(*(offloaded(url, job) for job in share))

    shares = await asyncio.gather(*(client(jobs[number::clients]) for number in range(clients)))
    return [times.sha256 for share in shares for times in share]


async def _batching(endpoint: BenchEndpoint, worker: Worker, jobs: TinyJobs, effort: Effort) -> dict[str, Any]:
    """Jobs queued together that may share a batch, against as many that may not."""
    seconds: dict[str, list[float]] = {"exact": [], "batched": []}
    sizes: list[int] = []
    for number in range(effort.rounds):
        for side in ("exact", "batched") if number % 2 else ("batched", "exact"):
            given = [jobs.new(exact=side == "exact") for _ in range(effort.batch)]
            begin = time.monotonic()
            times = await asyncio.gather(*(offloaded(endpoint.url, job) for job in given))
            seconds[side].append(time.monotonic() - begin)
            if side == "batched":
                sizes += [run.batched for run in times]
    ratio = sum(seconds["exact"]) / sum(seconds["batched"])
    return {"seconds": seconds, "jobs": effort.batch, "sizes": sizes, "ratio": ratio}


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, 90th percentile and worst."""
    ordered = sorted(values)
    p90 = ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))]
    return {"median": statistics.median(ordered), "p90": p90, "worst": ordered[-1]}
