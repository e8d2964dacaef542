"""What the reports of several benchmarks have in common: what the numbers depend on, and the verdicts."""

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from velocity_nodes.remote.wire.fingerprint import processor

from .targets import Verdict


def environment(threads: int, **others: Any) -> dict[str, Any]:
    """Return what the numbers depend on, `others` last."""
    import comfyui_version
    import torch

    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "comfyui": comfyui_version.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": processor(),
        "threads": threads,
        **others,
    }


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the verdicts as lines of Markdown, those that are not judged left out of the count."""
    judged = [verdict.met for verdict in verdicts if verdict.met is not None]
    heading = f"## targets: {sum(judged)} of {len(judged)} met"
    return [heading, "", "```", *(verdict.line() for verdict in verdicts), "```", ""]
