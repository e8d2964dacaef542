"""Tensors that are cut off, too large, malformed or malicious, and disks that are full: over HTTP."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import torch
from fault_setup import BLOB_BYTES
from raw_protocol import tiny_job
from velocity_nodes.remote.wire.blob import blob_name, encode_header
from velocity_nodes.remote.wire.tensor_blob import tensor_blob

from dev.endpoint import KEY

LONG = 100  # steps, about 2 s
GROWTH = 64_000_000  # bytes of memory that an endpoint may grow by while it refuses things
limits = pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="resource limits of processes need Linux")


def with_header(entries: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    """Return a safetensors file with this header, right or not."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries, separators=(",", ":")).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16), **more: object) -> dict:
    """Return the header of one tensor."""
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


GOOD = encode_header("F32", (4,)) + b"\0" * 16
MALICIOUS = {
    "empty": b"",
    "shorter than its length": b"\1\2\3",
    "header bomb, 2^63 bytes": with_header(entry(), length=1 << 63),
    "header bomb, 100 MB announced": with_header(entry(), length=100_000_000),
    "header longer than allowed": with_header(b" " * 5000 + json.dumps(entry()).encode()),
    "header behind the end": with_header(entry(), b"", 500),
    "bottomless nesting": with_header(b"[" * 1000),
    "no JSON": with_header(b"\xff\xfe{}"),
    "no object": with_header([1, 2]),
    "no tensor": with_header({}),
    "pickle": with_header(b"\x80\x04\x95csystem\n."),
    "two tensors": with_header({**entry(), "u": entry()["t"]}),
    "overlapping offsets": with_header({"t": entry()["t"], "u": entry(offsets=(8, 24))["t"]}),
    "metadata": with_header({"__metadata__": {"format": "pt"}, **entry()}),
    "offsets behind the end": with_header(entry(offsets=(0, 1 << 40))),
    "offsets that do not begin at 0": with_header(entry(offsets=(8, 24))),
    "negative offsets": with_header(entry(offsets=(-16, 0))),
    "negative size": with_header(entry(shape=(-4,))),
    "two negative sizes": with_header(entry(shape=(-2, -2))),
    "size that overflows 64 bits": with_header(entry(shape=(1 << 47, 1 << 47))),
    "size above any limit": with_header(entry(shape=(1 << 62,))),
    "size as a text": with_header(entry(shape=("4",))),
    "size as a fraction": with_header(entry(shape=(4.0,))),
    "size as a truth": with_header(entry("U8", (True,), (0, 1)), b"\0"),
    "sixty dimensions": with_header(entry(shape=(1,) * 60, offsets=(0, 4)), b"\0" * 4),
    "unknown dtype": with_header(entry("F128")),
    "dtype that is no text": with_header(entry(["F32"])),
    "one key twice": with_header(b'{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":' + b'{"dtype":"F32"}}'),
    "one more field": with_header(entry(code="import os")),
    "less data": GOOD[:-1],
    "more data": GOOD + b"\0",
}


@pytest.mark.parametrize("what", MALICIOUS)
def test_malicious_safetensors(rig, what):
    data = MALICIOUS[what]
    before = rig.memory()
    answer = rig.raw.put(data)
    assert answer.status == 422 and answer.error["code"] == "bad_blob", answer.body
    assert rig.raw("HEAD", f"/v1/blobs/{blob_name(data)}").status == 404
    assert rig.memory() - before < GROWTH


def test_larger_than_allowed(rig):
    """By its header, by its length, and by what really comes."""
    before, raw = rig.memory(), rig.raw
    huge = encode_header("F32", (1 << 30,)) + b"\0" * 64  # 4 GiB, by its own account
    assert raw.put(huge).error["code"] == "too_large"
    announced = raw("PUT", "/v1/blobs/" + "0" * 64, None, {"Content-Length": str(1 << 40)})
    assert announced.status == 413 and announced.error["code"] == "too_large"
    raw.connection.close()
    body = b"".join([b"10000\r\n", b"\0" * 65536, b"\r\n"])
    with socket.create_connection(("127.0.0.1", rig.endpoint.port), timeout=30) as endless:
        head = f"PUT /v1/blobs/{'0' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        endless.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        endless.settimeout(60)
        end = time.monotonic() + 60
        with pytest.raises(OSError):  # the endpoint hangs up
            while time.monotonic() < end:
                endless.sendall(body)
    assert rig.memory() - before < GROWTH


def test_wrong_hash(rig):
    data = encode_header("F32", (4,)) + b"\1" * 16
    answer = rig.raw.put(data, "0" * 64)
    assert answer.status == 422 and "do not hash to the name" in answer.error["message"]
    assert rig.raw("HEAD", "/v1/blobs/" + "0" * 64).status == 404


def test_upload_that_stops_in_the_middle(rig):
    """Nothing of it is kept; the whole blob is taken afterwards, and the job runs."""
    manifest, blobs = tiny_job(rig.seed(), latent=torch.randn(1, 16, 16, 16))
    answer = rig.raw("POST", "/v1/jobs", manifest).json
    job, missing = answer["job"], answer["missing"]
    for name, data in ((name, blobs[name]) for name in missing):
        cut = rig.raw
        cut.connection.putrequest("PUT", f"/v1/blobs/{name}")
        for header in {**cut.headers, "Content-Length": str(len(data))}.items():
            cut.connection.putheader(*header)
        cut.connection.endheaders(data[: len(data) // 2])
        cut.connection.close()
    assert {rig.raw("HEAD", f"/v1/blobs/{name}").status for name in missing} == {404}
    rig.until(lambda: not list((rig.endpoint.data / "blobs" / "arriving").iterdir()), "nothing half written is left")
    assert rig.raw("GET", f"/v1/jobs/{job}").json["state"] == "uploading"
    assert rig.raw.run(manifest, blobs)["state"] == "done" and rig.completed(job) == 1


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"shape": [1, 16, 8, 32]}, {"dtype": "int64"}])
def test_blob_of_another_dtype_or_shape_than_declared(rig, change):
    latent = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(rig.seed()))
    manifest, blobs = tiny_job(rig.seed(), latent=latent)
    manifest["cuts"][1][0]["samples"].update(change)
    end = rig.raw.run(manifest, blobs)
    assert end["state"] == "failed" and end["error"]["code"] == "bad_blob"
    assert "does not fit its place" in end["error"]["message"]
    assert rig.completed(end["job"]) == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_is_not_finite(rig, number):
    body = json.dumps(tiny_job(rig.seed())[0]).replace('"cfg": 1.0', f'"cfg": {number}').encode()
    answer = rig.raw("POST", "/v1/jobs", body)
    assert answer.status == 400 and "not finite" in answer.error["message"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite(rig, value):
    """The pack does not send one; a worker refuses it before it samples."""
    manifest, blobs = tiny_job(rig.seed(), latent=torch.randn(1, 16, 16, 16))
    bad = torch.randn(1, 16, 16, 16)
    bad[0, 3, 2, 1] = value
    blobs[blob_name(tensor_blob(bad))] = tensor_blob(bad)
    manifest["cuts"][1][0]["samples"]["@tensor"] = blob_name(tensor_blob(bad))
    end = rig.raw.run(manifest, blobs)
    assert end["state"] == "failed" and "not finite" in end["error"]["message"]


def test_blob_store_is_full(rig):
    """Blobs of unfinished jobs are not thrown away: what does not fit beside them is refused, and the picture is
    made here. Once they are free, old blobs make room."""
    side = int((BLOB_BYTES * 0.99 / 64) ** 0.5)
    large = torch.randn(1, 16, side, side)
    manifest, blobs = tiny_job(rig.seed(), latent=large)
    first = next(name for name, data in blobs.items() if len(data) > BLOB_BYTES * 0.9)
    job = rig.raw("POST", "/v1/jobs", manifest).json["job"]
    assert rig.raw.put(blobs[first]).status == 204
    answer = rig.raw.put(tensor_blob(torch.randn(1, 16, 128, 128)))
    assert answer.status == 507 and answer.error["code"] == "disk_full" and "--blob-gigabytes" in answer.error["next"]
    painting = rig.start(rig.heavy_graph())
    painting.assert_right()
    assert painting.ran_here and "the endpoint cannot keep the blob" in painting.log
    assert rig.raw("DELETE", f"/v1/jobs/{job}").status == 204
    painting = rig.start(rig.heavy_graph())
    painting.assert_right()
    assert not painting.ran_here
    assert rig.raw("HEAD", f"/v1/blobs/{first}").status == 404, "it was evicted"


@limits
def test_disk_is_full(rig):
    """Not a byte can be written, the journal's included: refused with one clear error, and it passes."""
    manifest, blobs = tiny_job(rig.seed(), latent=torch.randn(1, 16, 32, 32))
    with no_more_writing(psutil.Process(rig.endpoint.process.pid)):
        for answer in (rig.raw("POST", "/v1/jobs", manifest), rig.raw.put(max(blobs.values(), key=len))):
            assert answer.status == 507 and answer.error["code"] == "disk_full", answer.body
        painting = rig.start(rig.graph())
        painting.assert_right()
        assert painting.ran_here and "disk" in painting.log
    assert rig.raw.run(manifest, blobs)["state"] == "done"


@limits
def test_disk_becomes_full_while_a_job_runs(rig):
    """The job goes on to its end, though its state cannot be written down; and it is once there is room."""
    known = rig.jobs()
    painting = rig.start(rig.graph(LONG))
    rig.until_step()
    job = rig.new_job(known)
    with no_more_writing(psutil.Process(rig.endpoint.process.pid)):
        painting.assert_right()
        assert not painting.ran_here
    rig.assert_free()
    assert rig.raw("GET", f"/v1/jobs/{job.id}").json["state"] == rig.jobs()[len(known)].state == "released"
    assert rig.completed(job.id) == 1


@contextmanager
def no_more_writing(process: psutil.Process) -> Iterator[None]:
    """Let no file of the process grow, as if the disk were full."""
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
