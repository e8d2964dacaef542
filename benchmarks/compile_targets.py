"""What the issue asks of Compile Model+, and whether the measured numbers meet it."""

from typing import Any

from .report import verdict_lines
from .targets import Verdict

COLD, WARM, STEADY, CHANGE = 3.0, 5.0, 1.03, 1.0
FIRST = "first run"


def judge(data: dict[str, Any]) -> list[Verdict]:
    """Return the verdict on each target. `data` is what compile.json holds."""
    cold = {name: data["cold"][name][FIRST]["seconds"] for name in ("core", "ours")}
    warm = data["warm"]["ours"][FIRST]["seconds"]
    shipped = data["shipped"]["ours"][FIRST]["seconds"]
    verdicts = [
        _times("cold start against TorchCompileModel", COLD, cold["core"] / cold["ours"], "shorter"),
        _times("second start against the first", WARM, cold["ours"] / warm, "shorter"),
        Verdict("start with nothing but the kept file", "for information", f"{cold['ours'] / shipped:.1f}x", None),
    ]
    for size, steps in data["steady"].items():
        ratio = steps["ours"] / steps["core"]
        measured = f"{steps['ours']:.1f} ms against {steps['core']:.1f} ms ({100 * (ratio - 1):+.1f} %)"
        verdicts.append(Verdict(f"a step at {size}", "within 3 % of TorchCompileModel's", measured, ratio <= STEADY))
    for name, change in data["cold"]["ours"].items():
        if name != FIRST:
            met = change["seconds"] < CHANGE and not change["graphs"]
            measured = f"{change['seconds']:.2f} s, {change['graphs']} graphs"
            verdicts.append(Verdict(name, "under 1 s, no compilation", measured, met))
    return verdicts


def _times(name: str, wanted: float, measured: float, word: str) -> Verdict:
    return Verdict(name, f"at least {wanted:g}x {word}", f"{measured:.1f}x", measured >= wanted)


def markdown(data: dict[str, Any], verdicts: list[Verdict]) -> str:
    """Return the report: starts, changes, steps, targets."""
    lines = ["# Compile Model+ on the tiny Flux", "", ", ".join(f"{k} {v}" for k, v in data["notes"].items()), ""]
    lines += ["Seconds above a later run of the same settings, and graphs compiled.", ""]
    starts = [("TorchCompileModel", "core"), ("Compile Model+", "ours")]
    lines += ["| | TorchCompileModel | Compile Model+ |", "|---|--:|--:|"]
    rows = [("first run, nothing on disk", "cold", FIRST), ("first run, second start", "warm", FIRST)]
    rows += [(name, "cold", name) for name in data["cold"]["ours"] if name != FIRST]
    for label, part, name in rows:
        cells = [data[part][method][name] for _, method in starts]
        lines.append(f"| {label} | " + " | ".join(f"{c['seconds']:.2f} s, {c['graphs']}" for c in cells) + " |")
    shipped = data["shipped"]["ours"][FIRST]
    lines.append(f"| first run, only the kept file | | {shipped['seconds']:.2f} s, {shipped['graphs']} |")
    lines += ["", "Milliseconds per step, medians of runs in turn.", "", "| | no node | TorchCompileModel | ours |"]
    lines += ["|---|--:|--:|--:|"]
    for size, steps in data["steady"].items():
        lines.append(f"| {size} | {steps['eager']:.1f} | {steps['core']:.1f} | {steps['ours']:.1f} |")
    return "\n".join([*lines, "", *verdict_lines(verdicts)])
