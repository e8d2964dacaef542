"""What the issue asks of Offload's speed, whether the measured numbers meet it, and the report."""

from typing import Any

from .report import verdict_lines
from .targets import Verdict

ADDED_MS, FIRST_EVENT_MS, PREVIEW_MS = 40.0, 20.0, 150.0
RERUN_BYTES, THROUGHPUT = 2048, 0.95
MB = 1e6


def judge(data: dict[str, Any]) -> list[Verdict]:
    """Return the verdict on each target. `data` is what offload.json holds."""
    added, event = data["single"]["added"], data["single"]["first_event"]
    first, rerun = data["previews"]["first"], data["rerun"]["other seed"]
    queue, batching = data["queue"], data["batching"]
    wrong = queue["lost"] + queue["doubled"] + queue["equal"]
    jobs = f"{queue['jobs']} jobs of {queue['clients']} clients"
    ratios = [row["ratio"] for row in data["wire"] if row["ratio"]]
    return [
        Verdict("wall time added to a job", _most(ADDED_MS, "ms median"), _ms(added), added["median"] <= ADDED_MS),
        Verdict(
            "bodies that a re-run with another seed sends",
            f"at most {RERUN_BYTES} bytes",
            f"{rerun['bodies']} ({rerun['sent']} with all headers)",
            rerun["bodies"] <= RERUN_BYTES,
        ),
        Verdict(
            "first preview behind the step it shows",
            f"within {PREVIEW_MS:g} ms",
            _ms(first),
            first["worst"] <= PREVIEW_MS,
        ),
        Verdict(
            f"{jobs}, throughput",
            f"at least {THROUGHPUT:g} of the worker's own",
            f"{queue['ratio']:.3f}",
            queue["ratio"] >= THROUGHPUT,
        ),
        Verdict(
            f"{jobs}, each done once",
            "none lost or doubled",
            f"{queue['lost']} lost, {queue['doubled']} doubled, {queue['equal']} with another's result",
            wrong == 0,
        ),
        Verdict(
            "submit to first event", _most(FIRST_EVENT_MS, "ms median"), _ms(event), event["median"] <= FIRST_EVENT_MS
        ),
        Verdict("bytes sent over the least", "for information", f"{min(ratios):.3f} to {max(ratios):.3f}", None),
        Verdict(
            f"{batching['jobs']} jobs that need not be exact",
            "for information",
            f"{batching['ratio']:.2f}x faster, in batches of up to {max(batching['sizes'])}",
            None,
        ),
    ]


def _most(value: float, unit: str) -> str:
    return f"at most {value:g} {unit}"


def _ms(spread: dict[str, float]) -> str:
    return f"{spread['median']:.1f} ms (90 %: {spread['p90']:.1f}, worst {spread['worst']:.1f})"


def markdown(data: dict[str, Any], verdicts: list[Verdict]) -> str:
    """Return the report: one job, many jobs, bytes, targets."""
    lines = ["# Offload on loopback, tiny Flux", "", ", ".join(f"{k} {v}" for k, v in data["notes"].items()), ""]
    lines += ["Milliseconds of one job on an idle worker, medians.", ""]
    sides = (data["single"]["straight"], data["single"]["offloaded"])
    lines += ["| | straight to the worker | offloaded |", "|---|--:|--:|"]
    lines += [f"| {part} | {sides[0][part]:.1f} | {sides[1][part]:.1f} |" for part in sides[0]]
    lines += ["", "Jobs per second, each round.", "", "| | |", "|---|--:|"]
    for name, part in (("queue", "straight"), ("queue", "offloaded"), ("batching", "exact"), ("batching", "batched")):
        jobs, seconds = data[name]["jobs"], data[name]["seconds"][part]
        label = {"queue": f"{jobs} jobs, {part}", "batching": f"{jobs} jobs offloaded, {part}"}[name]
        lines.append(f"| {label} | {', '.join(f'{jobs / value:.2f}' for value in seconds)} |")
    queue = data["queue"]
    for side, pause in queue["pause"].items():
        waited, total = queue["waited"][side], sum(queue["seconds"][side])
        text = f"{pause:.1f} ms from one prompt's end to the next one's begin (median)"
        lines += ["", f"The worker, {side}: {text}; {waited:.1f} of {total:.1f} s without a core."]
    if "cpu" in data:
        lines += ["", "CPU milliseconds, one job after the other.", "", "| | a job | a step of it |", "|---|--:|--:|"]
        lines += [f"| {name} | {cpu['job']:.1f} | {cpu['step']:.2f} |" for name, cpu in data["cpu"].items()]
        cpu = ", ".join(f"{value:.1f} ms a job {side}" for side, value in queue["cpu"].items())
        lines += ["", f"CPU of the endpoint's process with {queue['jobs']} jobs at once: {cpu}."]
    lines += ["", "Bytes between client and endpoint for one job.", ""]
    lines += ["| | bodies sent | sent with headers | received |", "|---|--:|--:|--:|"]
    for name, run in data["rerun"].items():
        lines.append(f"| {name} | {run['bodies']} | {run['sent']} | {run['received']} |")
    lines += ["", "Tensors of real models' sizes, MB; *least* is the information in them.", ""]
    lines += ["| | | as fp32 | sent | least | sent / least |", "|---|---|--:|--:|--:|--:|"]
    for row in data["wire"]:
        sizes = " | ".join(f"{row[name] / MB:.3f}" for name in ("fp32", "sent", "least"))
        ratio = f"{row['ratio']:.4f}" if row["ratio"] else f"{row['sent']} bytes"
        lines.append(f"| {row['kind']} | {row['name']} | {sizes} | {ratio} |")
    return "\n".join([*lines, "", *verdict_lines(verdicts)])
