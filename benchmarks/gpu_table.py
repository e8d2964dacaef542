"""The short forms' JSON as Markdown: one table, and what is not in it."""

from typing import Any

HEAD = "| model | case | s/step | to bf16 | first step, s | graphs (breaks) | peak, GiB | weights |"
RULE = "|---|---|--:|--:|--:|--:|--:|---|"
FACTS = ("date", "gib", "driver", "memory", "comfyui", "aimdo", "torch", "cuda", "triton", "python", "system")


def markdown(data: dict[str, Any]) -> str:
    """Return title, versions, the table, and the cases that failed or had no time left."""
    facts, cases = data.get("environment", {}), data["cases"]
    lines = [f"# One step on {facts.get('device', 'no card: nothing was measured')}", ""]
    lines += [", ".join(f"{name} {facts[name]}" for name in FACTS if facts.get(name) is not None), "", HEAD, RULE]
    plain = {case["workload"]: case["seconds"] for case in cases if case["case"] == "bf16"}
    lines += [_row(case, plain.get(case["workload"])) for case in cases if case["seconds"]]
    failed = [case for case in cases if case["error"]]
    lines += ["", *(f"- {case['workload']}: {case['case']}: {_first_line(case['error'])}" for case in failed)]
    begun = [[case["workload"], case["case"]] for case in cases]
    left = [": ".join(name) for name in data.get("plan", []) if name not in begun]
    lines += [f"- left out, no time: {'; '.join(left)}"] if left else []
    lines += ["", f"{data.get('seconds', 0):g} seconds for everything. Random weights: times, nothing of quality.", ""]
    return "\n".join(lines)


def _row(case: dict[str, Any], plain: float | None) -> str:
    """`to bf16` is how many steps of the plain model take as long, for a step that is skipped its share of one."""
    cells = (
        case["workload"],
        case["case"],
        f"{case['seconds']:.4f}",
        f"{case['seconds'] / plain:.3f}" if plain else "",
        f"{case['first_seconds']:.1f}",
        f"{case['graphs']} ({case['graph_breaks']})",
        "" if case["peak_gib"] is None else f"{case['peak_gib']:.1f}",
        case["memory"],
    )
    return f"| {' | '.join(cells)} |"


def _first_line(text: str) -> str:
    return text.splitlines()[0]
