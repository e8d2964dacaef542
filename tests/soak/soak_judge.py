"""What must hold at the end of a soak: nothing lost, nothing doubled, nothing that grows without bound."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from soak_load import JobStory
from soak_watch import NAMES, Use

MEGABYTE = 1_000_000
# What the peak of the second half may be at most: the first half's peak times a factor, and so much more.
BOUNDS: dict[str, tuple[float, int]] = {
    "endpoint_memory": (1.0, 16 * MEGABYTE),
    "endpoint_files": (1.0, 16),
    "worker_memory": (1.0, 48 * MEGABYTE),
    "worker_files": (1.0, 16),
    "results": (1.0, MEGABYTE),
    "blobs": (1.0, MEGABYTE // 2),
    "journal": (1.25, MEGABYTE),
    "logs": (2.0, MEGABYTE // 4),
}
FILES_LEFT = 8  # open at the end more than at the start


@dataclass(frozen=True)
class Growth:
    """One thing that is used: at the start, the peaks of the two halves, at the end, and what was allowed."""

    name: str
    start: int
    first: int
    second: int
    end: int
    allowed: int

    @property
    def held(self) -> bool:
        """Whether the bound was kept; open files must also be given back."""
        back = not self.name.endswith("files") or self.end <= self.start + FILES_LEFT
        return self.second <= self.allowed and back


def lost(stories: Sequence[JobStory], expected: Sequence[str]) -> list[str]:
    """Return one line for each job that was not cancelled and has no result, or another than an undisturbed run."""
    lines = []
    for story in stories:
        if story.sha256 and story.sha256 != expected[story.recipe]:
            lines.append(f"{story.name}: its bytes are not those of an undisturbed run")
        elif story.failure and not story.cancelled:
            lines.append(f"{story.name} failed: {story.failure}")
        elif not story.sha256 and not story.cancelled:
            lines.append(f"{story.name} never ended")
    return lines


def doubled(
    stories: Sequence[JobStory], lives: Sequence[Sequence[str]], attempts: Mapping[str, int], allowed: Mapping[str, int]
) -> list[str]:
    """Return one line for each job that is several at the endpoint, or ran more often than is right.

    Each kill that finds a job unfinished allows one run more. `lives` are the runs that each worker has completed,
    `attempts` and `allowed` those of `Watch`.
    """
    lines = [f"{story.name} is several jobs" for story in stories if len(story.ids) > 1]
    completed: Counter[str] = Counter()
    for life in lives:
        in_this = Counter(run.partition(".")[0] for run in life)
        lines += [f"job {job} was completed {count} times by one worker" for job, count in in_this.items() if count > 1]
        completed += in_this
    for job, most in ((job, 1 + allowed.get(job, 0)) for job in {*completed, *attempts}):
        if completed[job] > most or attempts.get(job, 0) > most:
            started = attempts.get(job, 0)
            lines.append(f"job {job} was started {started} and completed {completed[job]} times, {most} at most")
    return lines


def growth(jobs: int, start: Use, uses: Sequence[tuple[int, Use]], end: Use) -> list[Growth]:
    """Return how what is used has grown; `uses` are (how many jobs had ended, use)."""
    halves = (
        [start, *(use for ended, use in uses if ended < jobs / 2)],
        [end, *(use for ended, use in uses if ended >= jobs / 2)],
    )
    found = []
    for name in NAMES:
        first, second = (max(getattr(use, name) for use in half) for half in halves)
        factor, more = BOUNDS[name]
        allowed = round(first * factor) + more
        found.append(Growth(name, getattr(start, name), first, second, getattr(end, name), allowed))
    return found


def left_over(data: Path, stories: Sequence[JobStory]) -> list[str]:
    """Return one line for each file in the endpoint's data folder that nobody waits for.

    A result stays for `--keep-hours` if the endpoint could not be told that it is not wanted any more.
    """
    untold = {f"{job}.bin" for story in stories if not story.told for job in story.ids}
    found = [*(data / "results").iterdir(), *(data / "blobs" / "arriving").iterdir()]
    return [f"{file.relative_to(data).as_posix()} is left" for file in found if file.name not in untold]
