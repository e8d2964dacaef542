"""What an endpoint lets in: pure checks of a manifest, all made before anything is allocated for it.

ComfyUI checks every prompt again (types, choices, ranges); what is here keeps out what it would not, or too late.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from ...wire.model_names import MODEL_SUFFIXES
from ..settings import Limits
from .graph import check_acyclic, check_link, is_link, scalars, source_of
from .manifest import Manifest, check_form
from .packed import Tensor, check_text, tensors_of
from .refusal import Refusal, bad_request, quoted, too_large

MAX_LITERAL_DEPTH = 8
# The last part of an input's name -> the limit that holds for its value.
LIMITED = {
    "steps": "steps",
    "width": "side",
    "height": "side",
    "batch_size": "batch",
    "amount": "batch",  # of Repeat Latent Batch
    "length": "frames",
    "frames": "frames",
}
_LIMITED_NAME = re.compile(rf"(?:^|[_.])({'|'.join(LIMITED)})$")
_OUTSIDE = re.compile(r"^[\\/]|^[A-Za-z]:|(?:^|[\\/])\.\.(?:[\\/]|$)")


def admit(manifest: Any, limits: Limits, capabilities: dict[str, Any] | None) -> list[str]:
    """Return the names of all blobs that the manifest mentions, each once.

    `capabilities` are the worker's, or None while they are not known; then node classes and models are checked later.
    Raises `Refusal`.
    """
    for field, kind in (("graph", "nodes"), ("cuts", "cuts")):
        value = manifest.get(field) if isinstance(manifest, dict) else None
        if isinstance(value, (dict, list)) and len(value) > getattr(limits, kind):
            raise too_large(f"the job has {len(value)} {kind}, and {getattr(limits, kind)} are allowed", kind)
    form = check_form(manifest)
    tensors = tensors_of(form.cuts, limits)
    check_link(form.output, form)
    for node in form.graph.values():
        check_text(node.class_type, limits)
        for name, value in node.inputs.items():
            check_text(name, limits)
            _check_form(name, value, form)
    for name, value, limit in _distinct_inputs(form):
        _check_values(name, value, limit, form, limits)
    check_acyclic(form)
    if capabilities is not None:
        check_nodes_and_models(manifest, capabilities)
    return list(dict.fromkeys(tensor.blob for tensor in tensors if tensor.blob))


def check_nodes_and_models(manifest: dict[str, Any], capabilities: dict[str, Any]) -> None:
    """Raise `Refusal` unless the endpoint has every node class and model file of an otherwise admitted manifest."""
    classes = {node["class_type"] for node in manifest["graph"].values()}
    unknown = sorted(classes.difference(capabilities["node_classes"]))
    if unknown:
        raise Refusal(
            "unsupported_node",
            f"the endpoint does not run the node classes {quoted(', '.join(unknown), 300)}",
            "run it locally, or have the operator install them and start `velocity serve` with --allow CLASS",
            classes=unknown,
        )
    form = check_form(manifest)
    known = {name for folder in capabilities["models"].values() for name in folder}
    missing = sorted(set(_model_names(form)) - known)
    if missing:
        raise Refusal(
            "missing_model",
            f"the endpoint does not have the model files {quoted(', '.join(missing), 300)}",
            "copy them into the models folders of the endpoint's ComfyUI, under the same names",
            models=missing,
        )


def blob_places(manifest: dict[str, Any], limits: Limits) -> list[Tensor]:
    """Return all tensors of an admitted manifest that are blobs, to be compared with the headers of these."""
    return [tensor for tensor in tensors_of(manifest["cuts"], limits) if tensor.blob]


def _distinct_inputs(form: Manifest) -> Iterator[tuple[str, Any, str | None]]:
    """Yield name, value and limit of the inputs; of thousands with one cut or link, one for each limit."""
    seen: set[tuple] = set()
    for node in form.graph.values():
        for name, value in node.inputs.items():
            limited = _LIMITED_NAME.search(name)
            limit, source = LIMITED[limited[1]] if limited else None, source_of(value)
            if source is None or (source, limit) not in seen:
                seen.add((source, limit))
                yield name, value, limit


def _check_form(name: str, value: Any, form: Manifest) -> None:
    """Raise `Refusal` for a cut or a link that leads nowhere, and for a value of another form."""
    if isinstance(value, dict) and "@cut" in value:
        number = value["@cut"]
        if len(value) != 1 or type(number) is not int or not 0 <= number < len(form.cuts):
            raise bad_request(f"the input {quoted(name)} stands for a cut that is not there")
    elif is_link(value):
        check_link(value, form)
    else:
        _check_literal(value, 0)


def _check_values(name: str, value: Any, limit: str | None, form: Manifest, limits: Limits) -> None:
    """Raise `Refusal` if a text or number that the input may come to be is not allowed."""
    for item in scalars(value, form):
        if isinstance(item, str):
            check_text(item, limits)
            _model_name(item)
        if limit:
            _check_number(name, item, limit, limits)


def _check_literal(value: Any, depth: int) -> None:
    """Raise `Refusal` for what is nested too deeply, and for marks anywhere but at the top."""
    if depth > MAX_LITERAL_DEPTH:
        raise bad_request("a value in the graph is nested too deeply")
    if isinstance(value, dict) and any(key.startswith("@") for key in value):
        raise bad_request("a value in the graph has a mark ('@...') where none may be")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_literal(item, depth + 1)


def _check_number(name: str, value: Any, kind: str, limits: Limits) -> None:
    try:
        number = float(value)  # a text too: ComfyUI makes numbers of texts
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        return
    if not number <= getattr(limits, kind):
        raise too_large(f"{quoted(name)} is {quoted(value)}, and {getattr(limits, kind)} is allowed", kind)


def _model_names(form: Manifest) -> Iterator[str]:
    for _, value, _ in _distinct_inputs(form):
        names = (_model_name(item) for item in scalars(value, form) if isinstance(item, str))
        yield from (name for name in names if name)


def _model_name(text: str) -> str | None:
    """Return the model file that the text names, if it does. Raises `Refusal` for one outside of the folders."""
    name = text.rsplit("embedding:", 1)[-1].strip()
    if not name.casefold().endswith(MODEL_SUFFIXES):
        return None
    if _OUTSIDE.search(name):
        raise bad_request(f"the model {quoted(name)} is a path; models go by their name in ComfyUI's folders")
    return name.replace("\\", "/")  # the client may run on another system; `capabilities` have forward slashes
