"""docs/soak.md: what a soak found."""

from collections.abc import Mapping, Sequence
from typing import Any

from soak_judge import Growth

HEAD = """\
# What a long run with trouble leaves

{clients} clients with keys of their own send {jobs} jobs of the tiny model to one `velocity serve` with one ComfyUI
behind it, each client through a link of its own. Meanwhile jobs are cancelled, processes are killed (SIGKILL; the
endpoint and the clients are started again and go on), links are cut, taken down and slowed down. Between
{calm_from:.0%} and {calm_to:.0%} of the jobs neither endpoint nor worker is killed, so that one process can grow.
Written by `{command}`.

{conditions}

| what happened | |
|---|--:|
"""
USES = """
Every {every:g} s it was noted what is used; the second half must not use more than the first and the bound beyond it.

| | start | peak of the first half | peak of the second half | end | allowed | |
|---|--:|--:|--:|--:|--:|---|
"""
LABELS = {
    "endpoint_memory": "memory of the endpoint",
    "endpoint_files": "the endpoint's open files",
    "worker_memory": "memory of the worker",
    "worker_files": "the worker's open files",
    "results": "results on the disk",
    "blobs": "blobs on the disk",
    "journal": "journal",
    "logs": "logs",
}


def page(about: Mapping[str, Any], counts: Mapping[str, Any], used: Sequence[Growth], faults: Sequence[str]) -> str:
    """Return the page. `about` fills the head, `counts` are the lines of the first table."""
    lines = [f"| {name} | {value} |" for name, value in counts.items()]
    lines.append(USES.format(every=about["every"]).rstrip("\n"))
    lines += [_line(one) for one in used]
    lines += ["", "What was found:", "", *(f"- {fault}" for fault in faults)] if faults else []
    return HEAD.format(**about) + "\n".join(lines) + "\n"


def _line(one: Growth) -> str:
    numbers = (one.start, one.first, one.second, one.end, one.allowed)
    cells = [f"{number}" if one.name.endswith("files") else f"{number / 1e6:.1f} MB" for number in numbers]
    return f"| {LABELS[one.name]} | {' | '.join(cells)} | {'held' if one.held else '**not held**'} |"
