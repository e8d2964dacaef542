"""What `nox -s forward` found, as a page: docs/compatibility.md."""

import datetime
import re
from collections.abc import Sequence

from .parts import ROOT, Running

PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """\
# What the pack was run with

Besides what `python -m nox -s tests` runs for every change: newer packages than ComfyUI pins, as an update brings them,
and versions of ComfyUI in between. Written by `python -m nox -s forward`; "skipped" is what a version of ComfyUI
does not have, each with its reason in the session's output.

| ComfyUI | frontend | comfy-kitchen | comfy-aimdo | torch | tests | passed | failed | skipped | date |
|---|---|---|---|---|---|---|---|---|---|
"""
# The line of tests/conftest.py.
VERSIONS = re.compile(
    r"^ComfyUI (\S+), comfyui-frontend-package (\S+), comfy-kitchen (\S+), comfy-aimdo (\S+), torch (\S+)$",
    re.MULTILINE,
)


def write_table(ended: Sequence[Running]) -> None:
    """Write the page anew from parts that have ended."""
    failures = [f"- {one.part.name}: `{test}`" for one in ended for test in _failed(one)]
    lines = [*map(_row, ended), *(["", "Failed:", "", *failures] if failures else [])]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _row(one: Running) -> str:
    versions = VERSIONS.search(one.text())
    cells = list(versions.groups()) if versions else [one.part.comfyui, *"????"]
    counts = {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error|skipped)", one.end())}
    failed = counts.get("failed", 0) + counts.get("error", 0)
    numbers = [counts.get("passed", 0), failed, counts.get("skipped", 0)]
    today = datetime.date.today().isoformat()
    return f"| {' | '.join(map(str, [*cells, ' '.join(one.part.paths), *numbers, today]))} |"


def _failed(one: Running) -> list[str]:
    return re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", one.report(), re.MULTILINE)
