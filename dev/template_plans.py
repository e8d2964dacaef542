"""Cuts the samplers of graphs as Offload does, and lets the jobs in as endpoint and worker do, without any model."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from velocity_nodes.remote.client.cut import CannotOffloadError, Cut, cut_graph
from velocity_nodes.remote.client.errors import EndpointError
from velocity_nodes.remote.client.graph_view import GraphView
from velocity_nodes.remote.client.model_needs import ModelNeeds
from velocity_nodes.remote.client.node_types import NodeTypes
from velocity_nodes.remote.endpoint.admission.admission import admit
from velocity_nodes.remote.endpoint.admission.refusal import Refusal
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.wire.model_names import model_names
from velocity_nodes.remote.worker.allowed import is_allowed

from .template_validation import Validation

PACK = "velocity_nodes"
EACH = "## Each"  # where the page's summary ends
TENSOR = {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 64, 64]}
VALUES = {"INT": 1, "FLOAT": 1.0, "STRING": "a", "BOOLEAN": True, "COMBO": "a", "CONDITIONING": [[TENSOR, {}]]}


@dataclass
class Plan:
    """One sampler: `text` is where the text encoders run, `refused` why it can't be sent. Otherwise `jobs` counts the
    samplers of the job, `leaves` what of pixels, prompt text and sound leaves, `stays` what runs here all the same."""

    template: str
    sampler: str
    text: str
    refused: str = ""
    jobs: int = 0
    leaves: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)


def samplers(graph: dict[str, Any], classes: dict[str, type]) -> list[str]:
    """Return the ids of the samplers in a graph."""
    needs = ModelNeeds(_view(graph, classes), False, (), True)
    known = [name for name, node in graph.items() if node["class_type"] in classes]
    return [name for name in known if needs.is_sampler(name)]


def plans(graphs: dict[str, dict[str, Any]], classes: dict[str, type]) -> list[Plan]:
    """Return the plans of all samplers, each with the text encoders here and there."""
    available = frozenset(name for name, found in classes.items() if is_allowed(name, found, PACK))
    names = (name for graph in graphs.values() for name in model_names(graph))
    with Validation(classes, names) as validation:
        return [
            _plan(Plan(template, sampler, text), graph, classes, available, validation)
            for template, graph in graphs.items()
            for sampler in samplers(graph, classes)
            for text in ("local", "remote")
        ]


def _plan(
    plan: Plan, graph: dict[str, Any], classes: dict[str, type], available: frozenset[str], validation: Validation
) -> Plan:
    try:
        cut = cut_graph(_view(graph, classes), [plan.sampler, 0], plan.text == "remote", available)
        manifest = _manifest(cut)
        admit(manifest, Limits(), {"node_classes": available, "models": {"all": model_names(manifest["graph"])}})
    except (CannotOffloadError, EndpointError, Refusal) as error:
        plan.refused = str(error).partition(". Install")[0]
        return plan
    plan.refused = validation.refusal(manifest)
    found = (("pixels", cut.pixels), ("prompt text", cut.prompt_text), ("sound", cut.sound))
    plan.jobs, plan.stays, plan.leaves = len(cut.samplers), cut.stays, [name for name, places in found if places]
    return plan


def _view(graph: dict[str, Any], classes: dict[str, type]) -> GraphView:
    return GraphView(graph.__getitem__, NodeTypes(classes))


def _manifest(cut: Cut) -> dict[str, Any]:
    cuts = [[VALUES.get(kind, {"samples": TENSOR})] for kind in cut.kinds]
    form = {"protocol": 1, "key": "k" * 16, "exact": True, "preview": True, "deadline_seconds": 0.0}
    return json.loads(json.dumps({**form, "graph": cut.graph, "output": cut.output, "cuts": cuts}))


def page(found: list[Plan]) -> str:
    """Return docs/templates.md."""
    lines = [
        "# ComfyUI's official templates with Offload",
        "",
        "Each sampler of each template, with Offload put behind it: can it be sent, is it let in by the endpoint and",
        "by ComfyUI's own check there, and what leaves this machine besides embeddings and latents. Written by",
        "`python -m nox -s templates`.",
        "",
        "| text encoders | samplers | can be sent | in one job with those before | one before runs here |",
        "|---|--:|--:|--:|--:|",
    ]
    for text in ("local", "remote"):
        mine = [plan for plan in found if plan.text == text]
        sent = [plan for plan in mine if not plan.refused]
        share = f"{len(sent)} ({100 * len(sent) / len(mine):.1f} %)"
        chains = sum(plan.jobs > 1 for plan in sent)
        lines.append(f"| {text} | {len(mine)} | {share} | {chains} | {sum(bool(plan.stays) for plan in sent)} |")
    for text in ("local", "remote"):
        counts = Counter(plan.refused for plan in found if plan.refused and plan.text == text)
        lines += ["", f"## Refused, text {text}", "", "| samplers | why |", "|--:|---|"]
        lines += [f"| {count} | {reason} |" for reason, count in counts.most_common()] or ["| 0 | |"]
    lines += ["", EACH, "", "| template | sampler | text local | text remote |", "|---|---|---|---|"]
    pairs: dict[tuple[str, str], list[str]] = {}
    for plan in found:
        pairs.setdefault((plan.template, plan.sampler), []).append(_cell(plan))
    lines += [f"| {' | '.join([*pair, *cells])} |" for pair, cells in pairs.items()]
    return "\n".join(lines) + "\n"


def _cell(plan: Plan) -> str:
    if plan.refused:
        return "refused"
    chain = f"{plan.jobs} samplers; " if plan.jobs > 1 else ""
    here = "; one before runs here" if plan.stays else ""
    return f"{chain}{', '.join(plan.leaves) or 'nothing else leaves'}{here}"
