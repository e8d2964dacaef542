"""The clients: what each is to do, their processes, and what they have noted so far."""

import json
import random
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soak_client import CANCELLING, DONE, ENDED, FAILED, KNOWN, RECONNECTING, TOLD, WAITS, read_notes

AT_ONCE = 2  # jobs of one client
CANCELS = 0.15  # of all jobs
CANCEL_SECONDS = 3.0  # after which the user cancels, at most
PAUSE_SECONDS = 1.0  # of a user between two jobs, at most
PATIENCE_SECONDS = 180.0  # an endpoint and its worker start several times slower on a busy machine


@dataclass
class JobStory:
    """What a client has noted of one job."""

    number: int
    recipe: int
    ids: set[str] = field(default_factory=set)
    sha256: str = ""
    cancelled: bool = False  # the user wanted it to be
    told: bool = False  # the endpoint has been told so, or that its result has arrived
    ended: bool = False
    failure: str = ""

    @property
    def name(self) -> str:
        """What it is called in a report: its number here, and its id at the endpoint."""
        return f"job {self.number} ({', '.join(sorted(self.ids)) or 'not known there'})"


class Client:
    """One client's process and notes."""

    def __init__(self, folder: Path, plan: dict) -> None:
        self.plan_file, self.notes, self.log = folder / "plan.json", Path(plan["notes"]), folder / "client.log"
        self.stories = {job["number"]: JobStory(job["number"], job["recipe"]) for job in plan["jobs"]}
        self.counts: Counter[str] = Counter()
        self._read = 0
        self.plan_file.write_text(json.dumps(plan), encoding="utf-8")
        self.start()

    def start(self) -> None:
        """Start the process (again)."""
        command = [sys.executable, str(Path(__file__).with_name("soak_client.py")), str(self.plan_file)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def read(self) -> None:
        """Take in what was noted since the last time."""
        if not self.notes.is_file():
            return
        with self.notes.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        complete = lines[: lines.rfind(b"\n") + 1]
        self._read += len(complete)
        for note in read_notes(complete):
            self._take(self.stories[note["job"]], note)

    def _take(self, story: JobStory, note: dict) -> None:
        what = note["what"]
        self.counts[what] += 1
        story.ended |= what in ENDED
        story.cancelled |= what == CANCELLING
        story.told |= what == TOLD
        if what == KNOWN:
            story.ids.add(note["id"])
        elif what == DONE:
            story.sha256 = note["sha256"]
        elif what == FAILED:
            story.failure = note["why"]


class Clients:
    """All of them, which share the jobs."""

    def __init__(
        self, folder: Path, recipes: Path, keys: Sequence[str], urls: Sequence[str], shares: list[list[dict]]
    ) -> None:
        self.all: list[Client] = []
        for number, (key, url, jobs) in enumerate(zip(keys, urls, shares, strict=True)):
            own = folder / f"client-{number}"
            own.mkdir()
            plan = {"url": url, "key": key, "recipes": str(recipes), "notes": str(own / "notes.jsonl"), "jobs": jobs}
            self.all.append(Client(own, {**plan, "at_once": AT_ONCE, "patience_seconds": PATIENCE_SECONDS}))

    @property
    def stories(self) -> list[JobStory]:
        """What is known of all jobs."""
        return [story for client in self.all for story in client.stories.values()]

    def read(self) -> int:
        """Take in what was noted, and return how many jobs have ended."""
        for client in self.all:
            client.read()
            code = client.process.poll()
            if code:
                text = client.log.read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"a client ended with code {code}:\n{text[-3000:]}")
        return sum(story.ended for story in self.stories)

    @property
    def running(self) -> bool:
        """Whether a process has not come to its end."""
        return any(client.process.poll() is None for client in self.all)

    @property
    def reconnects(self) -> int:
        """How often a client has tried again what failed."""
        return sum(client.counts[RECONNECTING] for client in self.all)

    @property
    def waits(self) -> int:
        """How often a client was told to come back later."""
        return sum(client.counts[WAITS] for client in self.all)

    def kill(self) -> None:
        """End all that are left."""
        for client in self.all:
            client.kill()


def shares(jobs: int, clients: int, recipes: int, chance: random.Random, seed: int) -> list[list[dict]]:
    """Return the jobs of each client: number, recipe, idempotency key, and in seconds the pause before it and after how
    long it is cancelled."""
    dealt: dict[int, list[dict]] = defaultdict(list)
    for number in range(jobs):
        after = chance.uniform(0, CANCEL_SECONDS) if chance.random() < CANCELS else None
        job = {"number": number, "recipe": chance.randrange(recipes), "key": f"soak-{seed:08}-{number:06}"}
        dealt[number % clients].append({**job, "cancel_after": after, "pause": chance.uniform(0, PAUSE_SECONDS)})
    return [dealt[number] for number in range(clients)]
