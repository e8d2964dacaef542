"""After each job a file says what left this machine, and how alike the result is to one made here."""

import functools
import itertools
import json
import time
from collections.abc import Callable

from branches import GREEN, RED, Branches, run
from watch import Watch

from demo.graph import offloaded, painting
from dev.endpoint import Endpoint
from dev.server import ComfyServer


def egress(client: ComfyServer, build: Callable[[Branches], list], **widgets: object) -> dict:
    """Run the sampler that `build` adds and return the manifest of its job."""
    folder = client.folder / "user" / "__velocity" / "egress"
    before = set(folder.glob("*.json"))
    branches = Branches(remote=True, **widgets)
    branches.save("result", branches.offload(build(branches)))
    run(client, branches)
    (file,) = set(folder.glob("*.json")) - before
    return json.loads(file.read_text(encoding="utf-8"))


def plain(branches: Branches, seed: int = 701) -> list:
    """Add a KSampler with two prompts."""
    return branches.ksampler(branches.model(), branches.text(), branches.text(GREEN), branches.empty(), seed=seed)


def test_no_pixels_and_no_prompt_text(client: ComfyServer) -> None:
    manifest = egress(client, plain)
    assert manifest["pixels"] == manifest["prompt_text"] == []
    assert manifest["statement"] == "no pixels, no prompt text, no sound" and "not encryption" in manifest["caveat"]
    kinds = [tensor["type"] for tensor in manifest["tensors"]]
    assert set(kinds) == {"CONDITIONING", "LATENT"}
    blobs = [tensor for tensor in manifest["tensors"] if tensor["sha256"]]
    assert blobs and all(len(t["sha256"]) == 64 and t["bytes"] > 0 and t["shape"] and t["dtype"] for t in blobs)
    assert sorted(node["class_type"] for node in manifest["graph"].values()) == ["KSampler", "UNETLoader"]
    text = json.dumps(manifest)
    assert RED not in text and GREEN not in text
    assert manifest["bytes_sent"] > 0
    again = egress(client, lambda branches: plain(branches, seed=702))
    assert not any(tensor["sent"] for tensor in again["tensors"] if tensor["sha256"])  # the endpoint has them


def test_prompt_text_is_named(client: ComfyServer) -> None:
    manifest = egress(client, lambda branches: plain(branches, seed=711), text_encoding="remote")
    assert set(manifest["prompt_text"]) == {"TinyFluxTextEncode.text"}
    assert RED in json.dumps(manifest["graph"])


def test_pixels_are_named(client: ComfyServer) -> None:
    """A mask that a node below the cut takes, and one that lies in the latent."""

    def build(branches: Branches) -> list:
        mask, options = branches.mask(), {"strength": 0.9, "set_cond_area": "default"}
        masked = branches.add("ConditioningSetMask", conditioning=branches.text(), mask=mask, **options)
        latent = branches.add("SetLatentNoiseMask", samples=branches.empty(), mask=mask)
        return branches.ksampler(branches.model(), masked, branches.text(GREEN), latent, seed=721)

    manifest = egress(client, build, text_encoding="remote")
    assert manifest["pixels"] == ["ConditioningSetMask.mask", "LATENT [0].noise_mask"]
    assert manifest["statement"].startswith("pixels (ConditioningSetMask.mask, LATENT [0].noise_mask), prompt text (")


def test_the_result_is_exact_on_the_same_machine(client: ComfyServer, endpoint: Endpoint) -> None:
    """As soon as both sides have computed the hash of the model file, which they do beside the work."""
    end = time.monotonic() + 120
    for seed in itertools.count(731):
        manifest = egress(client, functools.partial(plain, seed=seed))
        if manifest["fidelity"] == "exact":
            break
        assert manifest["fidelity"] == "unverified" and time.monotonic() < end, manifest["because"]
    assert manifest["because"] == "same weights, versions, device and attention"
    assert "Offload: exact (same weights" in client.log_text()


def test_a_job_that_is_interrupted_is_listed_from_its_beginning(client: ComfyServer) -> None:
    folder = client.folder / "user" / "__velocity" / "egress"
    before = set(folder.glob("*.json"))
    with Watch(client) as watch:
        watch.submit(offloaded(painting(GREEN, 741, steps=900)))
        watch.until("text", "step 2/")
        (file,) = set(folder.glob("*.json")) - before
        begun = json.loads(file.read_text(encoding="utf-8"))
        client.interrupt()
        watch.until("execution_interrupted")
    ended = json.loads(file.read_text(encoding="utf-8"))
    assert begun["state"] == "begun" and begun["tensors"] and begun["graph"] and begun["endpoint"]
    assert ended["state"].startswith("not done: InterruptProcessingException")
    assert ended["job"] and ended["bytes_sent"] > 0 and ended["tensors"]
    assert set(folder.glob("*.json")) - before == {file}
