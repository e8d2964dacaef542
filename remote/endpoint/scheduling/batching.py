"""Jobs that differ only in seed, conditioning values and latent are sampled together, unless one wants exact bits.

Together means one batch: a GPU takes less time for it than for one after the other. The bits may differ in the last
places, as they do in ComfyUI between a batch and single pictures.
"""

import json
import math
from typing import Any

from ..workers.compose import CUT, GRAPH, RETURN, compose, node
from ..workers.run import Run

MAX_JOBS = 8
MAX_ELEMENTS = 8 * 16 * 128 * 128  # of all latents together: eight pictures of 1024 x 1024
SAMPLER, BATCHED_SAMPLER = "KSampler", "VelocityBatchedSampler"
# What each job has its own of.
OWN_INPUTS = ("positive", "negative", "latent_image")
INPUTS = {"model", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise", *OWN_INPUTS}
# No noise of their own on the way, and no step size that depends on the whole batch.
SAMPLERS = frozenset(
    "euler euler_cfg_pp heun heunpp2 dpm_2 lms dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v deis res_multistep "
    "res_multistep_cfg_pp gradient_estimation gradient_estimation_cfg_pp ddim uni_pc uni_pc_bh2".split()
)
# These decide for a whole batch at once what to compute.
COUPLING = frozenset({"VelocityFirstBlockCache", "VelocityForecast", "EasyCache", "LazyCache"})
# Tensors beside a conditioning's own that have one row for each picture, and what may differ in a latent.
ROW_OPTIONS = frozenset({"pooled_output", "attention_mask", "conditioning_llama3"})
LATENT_KEYS = frozenset({"samples", "type", "downscale_ratio_spacial", "downscale_ratio_temporal"})


def batch_key(manifest: dict[str, Any]) -> str | None:
    """Return a text that is equal for jobs which can be sampled together, None for a job that runs alone."""
    graph, (root, index) = manifest["graph"], manifest["output"]
    inputs = graph[root]["inputs"]
    if manifest.get("exact", True) or graph[root]["class_type"] != SAMPLER or index != 0 or set(inputs) != INPUTS:
        return None
    if type(inputs["seed"]) is not int or str(inputs["sampler_name"]) not in SAMPLERS:
        return None
    if COUPLING & {other["class_type"] for other in graph.values()}:
        return None
    cuts, own = list(manifest["cuts"]), own_cuts(manifest)
    if _cut_number(inputs["latent_image"]) not in own:
        return None
    for number in own:
        if len(cuts[number]) != 1 or (form := _form(cuts[number][0])) is None:
            return None
        cuts[number] = form
    graph = {**graph, root: {**graph[root], "inputs": {**inputs, "seed": None}}}
    return json.dumps([graph, manifest["output"], cuts], sort_keys=True)


def own_cuts(manifest: dict[str, Any]) -> list[int]:
    """Return the numbers of the cuts that only the sampler takes, as conditioning or latent."""
    root, users = manifest["output"][0], {}
    for node_id, other in manifest["graph"].items():
        for name, value in other["inputs"].items():
            users.setdefault(_cut_number(value), []).append(node_id == root and name in OWN_INPUTS)
    users.pop(None, None)
    return sorted(number for number, own in users.items() if all(own))


def latent_elements(manifest: dict[str, Any]) -> int:
    """Return how many numbers the latent of a job with a `batch_key` has."""
    latent = manifest["graph"][manifest["output"][0]]["inputs"]["latent_image"]
    return math.prod(manifest["cuts"][latent["@cut"]][0]["samples"]["shape"])


def compose_batch(run: Run, models: frozenset[str]) -> dict[str, Any]:
    """Return the prompt for jobs with one `batch_key`: each cut holds one item per job, each job gets its item."""
    first = run.jobs[0].manifest
    prompt = compose(first, "", [], models)
    for number in own_cuts(first):
        values = [job.manifest["cuts"][number][0] for job in run.jobs]
        prompt[f"{CUT}{number}"]["inputs"]["value"] = json.dumps(values, separators=(",", ":"))
    root = GRAPH + first["output"][0]
    inputs = {name: value for name, value in prompt[root]["inputs"].items() if name != "seed"}
    seeds = [job.manifest["graph"][first["output"][0]]["inputs"]["seed"] for job in run.jobs]
    prompt[root] = node(BATCHED_SAMPLER, seeds=json.dumps(seeds), **inputs)
    del prompt[RETURN]
    for number, job in enumerate(run.jobs):
        returned = {"job": run.result_name(job), "sent": json.dumps(job.blobs), "index": number}
        prompt[f"{RETURN}{number}"] = node("VelocityReturn", value=[root, 0], **returned)
    return prompt


def _cut_number(value: Any) -> int | None:
    return value.get("@cut") if isinstance(value, dict) else None


def _form(packed: Any) -> Any:
    """Return a packed conditioning or latent without its numbers; None if it can't be a row of a batch."""
    if isinstance(packed, dict) and set(packed) <= LATENT_KEYS and "samples" in packed:
        samples = _row(packed["samples"])
        return samples and {**packed, "samples": samples}
    if not isinstance(packed, list):
        return None
    entries = []
    for entry in packed:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], dict)):
            return None
        rows = {name: _row(value) for name, value in entry[1].items() if name in ROW_OPTIONS}
        others = {name: value for name, value in entry[1].items() if name not in ROW_OPTIONS}
        tokens = _row(entry[0])
        if tokens is None or None in rows.values() or _has_tensor(others):
            return None
        entries.append([tokens, rows, others])
    return entries


def _row(packed: Any) -> dict[str, Any] | None:
    """Return dtype and shape of a tensor whose first size is 1."""
    if not isinstance(packed, dict) or not {"@tensor", "@fill"} & set(packed) or packed["shape"][:1] != [1]:
        return None
    return {"dtype": packed["dtype"], "shape": packed["shape"]}


def _has_tensor(packed: Any) -> bool:
    if isinstance(packed, dict):
        return any(name.startswith("@") for name in packed) or any(map(_has_tensor, packed.values()))
    return isinstance(packed, list) and any(map(_has_tensor, packed))
