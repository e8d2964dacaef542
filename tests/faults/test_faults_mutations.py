"""Random mutations of valid requests, on admission and decoders in this process and on the real app: never anything but
an answer of the protocol, never an allocation beyond the limits, never a hang."""

import json
import math
import sys
import time
import uuid
from contextlib import contextmanager
from typing import Any

import comfy.clip_vision  # noqa: F401  (slow to import, and `unpack` does when it needs it)
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from mutations import garbled, mutated
from raw_protocol import FINAL, Raw, tiny_job
from velocity_nodes.remote.endpoint.admission.admission import admit
from velocity_nodes.remote.endpoint.admission.manifest import parse_json
from velocity_nodes.remote.endpoint.admission.refusal import STATUS, Refusal
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.wire.blob import BlobError, blob_name, read_header
from velocity_nodes.remote.wire.values import unpack

resource = pytest.importorskip("resource", reason="peak memory is asked for the POSIX way")

MANIFEST, BLOBS = tiny_job(seed=77)
BODY = json.dumps(MANIFEST).encode()
BLOB = next(iter(BLOBS.values()))
LIMITS = Limits(blob_bytes=1 << 20, total_bytes=2 << 20)
CAPABILITIES = {
    "node_classes": ["KSampler", "UNETLoader"],
    "models": {"diffusion_models": {MANIFEST["graph"]["1"]["inputs"]["unet_name"]: 1}},
}
ANSWER_SECONDS = 60.0  # more is a hang
GROWTH = 64_000_000  # bytes of memory
ITEM_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


def mutations(number: int) -> Any:
    """Return settings for so many examples, the same ones in every run."""
    unhurried = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    unhurried["phases"] = [Phase.explicit, Phase.generate]  # a seed cannot be made smaller
    return lambda test: seed(20)(settings(max_examples=number, **unhurried)(test))


@contextmanager
def within_bounds():
    """Assert that what is done takes neither long nor, at any moment, much memory."""
    start, before = time.monotonic(), peak_memory()
    try:
        yield
    finally:
        assert time.monotonic() - start < ANSWER_SECONDS
        assert peak_memory() - before < GROWTH


def peak_memory() -> int:
    """Return the most bytes that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def check(body: bytes) -> dict | None:
    """Return the manifest if it is admitted; a refusal must be one that can be answered."""
    try:
        with within_bounds():
            manifest = parse_json(body)
            names = admit(manifest, LIMITS, CAPABILITIES)
    except Refusal as refusal:
        assert refusal.code in STATUS and refusal.message and refusal.next
        assert len(json.dumps(refusal.error())) < 10_000
        return None
    assert all(len(name) == 64 for name in names)
    return manifest


def assert_within_limits(manifest: dict) -> None:
    """Assert, by other code than the admission's, that an admitted manifest asks for no more than is allowed."""
    assert tensor_bytes(manifest["cuts"]) <= LIMITS.total_bytes
    assert len(manifest["graph"]) <= LIMITS.nodes
    for node in manifest["graph"].values():
        assert node["class_type"] in CAPABILITIES["node_classes"]
        for name, value in node["inputs"].items():
            if name == "steps" and isinstance(value, (int, float)):
                assert value <= LIMITS.steps


def tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors that a packed value announces, at least."""
    if isinstance(value, dict) and ("@tensor" in value or "@fill" in value):
        return math.prod(value["shape"]) * ITEM_BYTES.get(value["dtype"], 1)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(tensor_bytes, inner))


def test_the_valid_request_is_valid():
    assert check(BODY) == MANIFEST
    assert_within_limits(MANIFEST)
    assert read_header(BLOB).data_bytes > 0


@mutations(6000)
@given(manifest=mutated(MANIFEST))
def test_mutated_manifests(manifest):
    admitted = check(json.dumps(manifest).encode())
    if admitted is None:
        return
    assert_within_limits(admitted)
    try:
        with within_bounds():
            unpack(admitted["cuts"], BLOBS.__getitem__, LIMITS.total_bytes)
    except BlobError:
        pass


@mutations(2000)
@given(body=garbled(BODY))
def test_garbled_manifests(body):
    admitted = check(body)
    if admitted is not None:
        assert_within_limits(admitted)


@mutations(2000)
@given(data=garbled(BLOB[:400]))
def test_garbled_blobs(data):
    try:
        with within_bounds():
            header = read_header(data)
    except BlobError as error:
        assert len(str(error)) < 1000
        return
    assert 0 <= header.data_bytes and data[8:].startswith(b'{"t":{"dtype":')


class App:
    """The real app; what it accepts is cancelled at once."""

    def __init__(self, rig: Any) -> None:
        self.raw: Raw = rig.raw

    def send(self, method: str, path: str, body: bytes) -> int:
        """Return the status of a request, after checking that it is an answer of the protocol."""
        start = time.monotonic()
        answer = self.raw(method, path, body)
        assert time.monotonic() - start < ANSWER_SECONDS
        assert answer.status in (200, 204) or (400 <= answer.status < 500 and answer.error["code"] in STATUS), (
            answer.body
        )
        if answer.status == 200:
            assert self.raw("DELETE", f"/v1/jobs/{answer.json['job']}").status == 204
        return answer.status


def test_a_thousand_mutations_of_requests_to_the_app(rig):
    memory, app, statuses = rig.memory(), App(rig), []

    @mutations(600)
    @given(manifest=mutated({**MANIFEST, "key": "x" * 32}))
    def manifests(manifest):
        if isinstance(manifest, dict) and manifest.get("key") == "x" * 32:
            manifest = {**manifest, "key": uuid.uuid4().hex}  # the same one would be a conflict, whatever else is in it
        statuses.append(app.send("POST", "/v1/jobs", json.dumps(manifest).encode()))

    @mutations(200)
    @given(body=garbled(BODY))
    def bodies(body):
        statuses.append(app.send("POST", "/v1/jobs", body))

    @mutations(200)
    @given(data=garbled(BLOB))
    def blobs(data):
        statuses.append(app.send("PUT", f"/v1/blobs/{blob_name(data)}", data))

    manifests(), bodies(), blobs()
    assert len(statuses) >= 1000 and {200, 400, 413, 422} <= set(statuses)
    assert rig.memory() - memory < GROWTH


def test_mutated_jobs_that_the_endpoint_accepts_come_to_an_end(rig):
    """Admission and ComfyUI differ in what they take; whatever gets through ends, and the worker survives it."""
    raw, worker, ends, log_start = rig.raw, rig.worker().pid, [], len(rig.endpoint.log_text())
    assert {raw.put(data).status for data in BLOBS.values()} == {204}

    @mutations(250)
    @given(manifest=mutated(MANIFEST))
    def jobs(manifest):
        if isinstance(manifest, dict) and "key" in manifest:
            manifest["key"] = uuid.uuid4().hex
        answer = raw("POST", "/v1/jobs", manifest)
        if answer.status != 200:
            return
        job = f"/v1/jobs/{answer.json['job']}"
        if not answer.json["missing"]:
            rig.until(lambda: raw("GET", job).json["state"] in FINAL, f"{manifest} ends")
            end = raw("GET", job).json
            assert end["state"] == "done" or (end["error"]["message"] and end["error"]["next"]), end
            ends.append(end["state"])
        assert raw("DELETE", job).status == 204

    jobs()
    assert len(ends) > 20 and {"done", "failed"} <= set(ends)
    assert rig.worker().pid == worker
    assert "Traceback" not in rig.endpoint.log_text()[log_start:]
