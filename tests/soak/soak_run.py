"""`python -m nox -s soak -- offload`: a thousand jobs of several clients while everything around them fails.

Writes docs/soak.md and ends with 1 if a job was lost or done twice, or something grew beyond its bound. One seed draws
all jobs and all trouble; `--seed` repeats it.
"""

import argparse
import json
import os
import platform
import random
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT), str(ROOT / "tests" / "faults")]

from dev.host import import_comfyui, import_pack  # noqa: E402

import_comfyui()
import_pack()

from endpoint_side import EndpointSide  # noqa: E402
from fault_proxy import Proxy  # noqa: E402
from soak_judge import doubled, growth, left_over, lost  # noqa: E402
from soak_load import Clients, shares  # noqa: E402
from soak_recipes import undisturbed, write_recipes  # noqa: E402
from soak_table import page  # noqa: E402
from soak_trouble import AGAIN, CALM_FROM, CALM_TO, COUNTS, Trouble, schedule  # noqa: E402
from soak_watch import EVERY_SECONDS, Use, Watch  # noqa: E402

from benchmarks.report import environment  # noqa: E402
from dev.endpoint import Endpoint  # noqa: E402

COMMAND = "python -m nox -s soak -- offload"
RECIPES = 40
# Room for the blobs of all unfinished jobs and not for all there are; results and journal are cleared away meanwhile.
BLOB_GIGABYTES, KEEP_HOURS = 0.0027, 0.03
STUCK_SECONDS = 300.0  # without the end of any job
STALL_SECONDS = 60
LATE_SECONDS = 6.0  # for connections that are kept alive, and the endpoint's own clearing away


def main() -> int:
    """Run, write the page, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--recipes", type=int, default=RECIPES, help="how many different jobs there are")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 20), help="draws jobs and trouble")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "soak.md", help="the page that is written")
    parser.add_argument("--keep", type=Path, help="a folder for notes and logs, which otherwise are deleted")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    begin = time.monotonic()
    say(f"seed {options.seed}")
    with tempfile.TemporaryDirectory(prefix="velocity-soak-") as temporary:
        found = run(options, options.keep or Path(temporary))
    text, faults = report(options, found, (time.monotonic() - begin) / 60)
    options.out.write_text(text, encoding="utf-8", newline="\n")
    print(text)
    return 1 if faults else 0


class Outcome(NamedTuple):
    """What there is to judge: `expected` are the hashes of an undisturbed run of each recipe, `faults` what was found
    while it ran."""

    clients: Clients
    watch: Watch
    trouble: Trouble
    expected: list[str]
    start: Use
    end: Use
    faults: list[str]


def run(options: argparse.Namespace, folder: Path) -> Outcome:
    """Run all jobs, with trouble."""
    chance = {what: random.Random(f"{options.seed} {what}") for what in ("recipes", "jobs", "trouble")}
    recipes = write_recipes(folder / "recipes", options.recipes, chance["recipes"])
    dealt = shares(options.jobs, options.clients, options.recipes, chance["jobs"], options.seed)
    keys = {f"client-{number}": f"the-key-of-client-{number}" for number in range(options.clients)}
    with ExitStack() as stack:
        endpoint = stack.enter_context(Endpoint(arguments=arguments(folder / "keys.json", keys)))
        say("the endpoint is up; each recipe undisturbed")
        expected = undisturbed(EndpointSide(endpoint), recipes)
        watch = stack.enter_context(Watch(EndpointSide(endpoint)))
        start = watch.use()
        proxies = [stack.enter_context(Proxy(endpoint.port)) for _ in keys]
        clients = Clients(folder, folder / "recipes", list(keys.values()), [proxy.url for proxy in proxies], dealt)
        stack.callback(clients.kill)
        trouble = Trouble(schedule(options.jobs, chance["trouble"]), watch, clients, proxies)
        say("jobs and trouble")
        faults = follow(watch, clients, trouble)
        for proxy in proxies:
            proxy.cut()
        say("waiting for what is left")
        end = settle(watch)
        faults += left_over(endpoint.data, clients.stories)
        if options.keep:
            shutil.copytree(endpoint.data, folder / "data")
            shutil.copy(endpoint.log_path, folder)
    return Outcome(clients, watch, trouble, expected, start, end, faults)


def report(options: argparse.Namespace, found: Outcome, minutes: float) -> tuple[str, list[str]]:
    """Return the page, and all faults."""
    stories, watch = found.clients.stories, found.watch
    missing = lost(stories, found.expected)
    twice = doubled(stories, watch.lives, watch.attempts, watch.allowed)
    used = growth(options.jobs, found.start, watch.uses, found.end)
    faults = [*found.faults, *missing, *twice]
    faults += [f"{one.name}: {one.second}, and {one.allowed} is allowed" for one in used if not one.held]
    counts = {
        "jobs": options.jobs,
        "done": sum(bool(story.sha256) for story in stories),
        "cancelled": sum(story.cancelled and not story.sha256 for story in stories),
        **{what: found.trouble.done[what] for what in (*COUNTS, AGAIN)},
        "a client tried again": found.clients.reconnects,
        "a client was told to come back later": found.clients.waits,
        "connections": sum(proxy.connections for proxy in found.trouble.proxies),
        "runs that workers completed, undisturbed ones included": sum(map(len, watch.lives)),
        "jobs that were begun twice, as a kill had hit them": sum(count > 1 for count in watch.attempts.values()),
        "jobs left at the endpoint as it could not be told of the cancel": watch.unfinished,
        "times that it was noted what is used": len(watch.uses),
        "**lost**": len(missing),
        "**doubled**": len(twice),
        "minutes": f"{minutes:.1f}",
    }
    about = {"jobs": options.jobs, "clients": options.clients, "calm_from": CALM_FROM, "calm_to": CALM_TO}
    about |= {"command": f"{COMMAND} --seed {options.seed}", "every": EVERY_SECONDS, "conditions": conditions()}
    return page(about, counts, used, faults), faults


def arguments(file: Path, keys: dict[str, str]) -> list[str]:
    """Return the options of `velocity serve`, and write its file of keys."""
    file.write_text(json.dumps({name: {"key": key} for name, key in keys.items()}), encoding="utf-8")
    file.chmod(0o600)
    options = ["--keys", str(file), "--keep-hours", str(KEEP_HOURS), "--blob-gigabytes", str(BLOB_GIGABYTES)]
    # A share of so small a store would not hold the blobs of one client's jobs.
    return [*options, "--key-share", "1", "--stall-seconds", str(STALL_SECONDS)]


def follow(watch: Watch, clients: Clients, trouble: Trouble) -> list[str]:
    """Make trouble until all clients have ended; return a line if they do not get on any more."""
    moved, said = time.monotonic(), 0
    while clients.running:
        time.sleep(0.1)
        ended = clients.read()
        if ended > watch.ended:
            watch.ended, moved = ended, time.monotonic()
        if ended - said >= len(clients.stories) / 20:
            said = ended
            say(f"{ended} jobs have ended; {dict(trouble.done)}")
        trouble.make(ended)
        if time.monotonic() - moved > STUCK_SECONDS:
            return [f"no job ended for {STUCK_SECONDS:g} s"]
    clients.read()
    return []


def settle(watch: Watch) -> Use:
    """Wait until the endpoint has nothing more to do, and return what it uses then."""
    watch.side.until(watch.side.is_idle, "the endpoint is idle", STUCK_SECONDS)
    watch.side.until_ready()
    time.sleep(LATE_SECONDS)
    return watch.end()


def conditions() -> str:
    """Return the line that says with what and when."""
    about = environment(1)
    names = ("date", "comfyui", "torch", "python", "cpu")
    return ", ".join(f"{name} {about[name]}" for name in names) + f", {os.cpu_count()} cores, {platform.system()}"


def say(text: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
