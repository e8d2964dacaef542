"""The file that `gpu.py` writes as it goes, and the time that it may take."""

import json
import time
from pathlib import Path
from typing import Any

# Published seconds of FLUX.1-dev, 28 steps, 1024 x 1024, on one H200: sgl-project/sglang pull request 19673.
MARKS = {"eager": 5.58, "compiled, FA3": 3.73, "compiled, FA3, cache": 2.38}
STOPPED = "stopped while it ran"  # the error of a case until it is measured


class Report:
    """The JSON file, written after each addition; `old` cases stay until they are measured again."""

    def __init__(self, path: Path, old: dict[str, Any]) -> None:
        self.path = path
        self.data: dict[str, Any] = {"environment": {}, "marks_h200": MARKS, "card": {}, "linears": [], "cases": []}
        self.data.update(old)

    def put(self, **parts: Any) -> None:
        """Set whole parts."""
        self.data.update(parts)
        text = json.dumps(self.data, indent=1) + "\n"
        part = self.path.with_suffix(".part")  # whoever stops this process in the middle finds the file whole
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(self.path)

    def add(self, case: dict[str, Any], quiet: bool = False) -> None:
        """Add one case, in place of one of the same name, and print it."""
        key = (case["workload"], case["case"])
        self.put(cases=[c for c in self.data["cases"] if (c["workload"], c["case"]) != key] + [case])
        if quiet:
            return
        seconds = f"{case['seconds']:.3f} s" if case["seconds"] else "no time"
        calls = f", {case['full']} full, {case['skipped']} skipped" if case.get("skipped") else ""
        error = f", {case['error'].splitlines()[0]}" if case["error"] else ""
        print(f"  {case['workload']}: {case['case']}: {seconds}{calls}{error}", flush=True)


class Budget:
    """Minutes that may be spent."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def allows(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return time.monotonic() + seconds < self.end
