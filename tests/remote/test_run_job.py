"""A job gets through a bad network and a restarting endpoint, or fails with one clear error that tells no key."""

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import time
import traceback

import pytest
from aiohttp import web
from velocity_nodes.remote.client import client as client_module
from velocity_nodes.remote.client.client import EndpointClient
from velocity_nodes.remote.client.errors import EndpointError
from velocity_nodes.remote.client.patience import Patience
from velocity_nodes.remote.client.run_job import ATTEMPTS, JobRun, Transfer
from velocity_nodes.remote.client.settings import Endpoint
from velocity_nodes.remote.wire.blob import blob_name

from tests.remote.bad_endpoint import (
    KEY,
    RESULT,
    BadEndpoint,
    answers,
    done,
    drops,
    error,
    event_stream,
    refuses,
)

BLOBS = {blob_name(data): data for data in (b"a" * 300_000, b"b" * 1000, b"c")}
SIZE = sum(map(len, BLOBS.values()))


def run(coroutine) -> object:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


async def one_job(
    endpoint: BadEndpoint, silence: float = 5.0, patience: float = 5.0, key: str = "k", blobs: dict | None = None
) -> tuple[bytes, list, Transfer]:
    """Run a job against a running endpoint: its result, what was told, and the transfer."""
    told, blobs = [], BLOBS if blobs is None else blobs
    async with EndpointClient(Endpoint("test", endpoint.url, KEY), silence) as client:
        job = JobRun(client, lambda kind, data: told.append((kind, data)), patience)
        data = await job.run({"key": key, "cuts": list(blobs)}, blobs)
        return data, told, job.transfer


def job_with(endpoint: BadEndpoint, **options) -> tuple[bytes, list, Transfer]:
    async def play():
        async with endpoint.running():
            return await one_job(endpoint, **options)

    return run(play())


def failed_job(endpoint: BadEndpoint, **options) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        job_with(endpoint, **options)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert KEY not in shown
    assert str(caught.value).strip()
    return caught.value


def kinds(told: list) -> list[str]:
    return [kind for kind, _ in told if kind not in ("uploading", "downloading")]


def test_a_job():
    endpoint = BadEndpoint()
    endpoint.events = [
        ("queued", {"position": 0, "seconds": None}),
        ("cold", {"seconds": 2.0}),
        ("running", {"worker": 0, "attempt": 1}),
        ("preview", {"jpeg": "x" * 200_000, "value": 1}),
        ("step", {"value": 1, "max": 2}),
        ("warning", {"message": "hot"}),
        done(),
    ]
    data, told, transfer = job_with(endpoint)
    assert data == RESULT
    assert kinds(told) == ["queued", "cold", "running", "preview", "step", "warning"]
    assert (transfer.job, transfer.sent, transfer.warnings) == ("job-1", set(BLOBS), ["hot"])
    assert (transfer.result["seconds"], transfer.download_bytes) == (0.5, len(RESULT))
    manifest = len(json.dumps({"key": "k", "cuts": list(BLOBS)}, separators=(",", ":")))
    assert transfer.upload_bytes == SIZE + manifest
    uploads = [data for kind, data in told if kind == "uploading"]
    assert uploads == sorted(uploads)
    assert uploads[-1] == (SIZE, SIZE)
    assert [data for kind, data in told if kind == "downloading"][-1] == (len(RESULT), len(RESULT))


def test_what_is_there_already_is_not_sent_again():
    endpoint = BadEndpoint(blobs=dict(BLOBS))
    _, told, transfer = job_with(endpoint)
    assert (transfer.sent, endpoint.of("blob")) == (set(), [])
    assert transfer.upload_bytes < 300
    assert "uploading" not in [kind for kind, _ in told]


# Connections that are cut


async def drops_halfway(request: web.Request) -> web.StreamResponse:
    await request.content.readexactly(min(100_000, request.content_length))
    return await drops(request)


def test_cut_during_upload():
    endpoint = BadEndpoint(faults={"blob": [drops_halfway] * 6})
    data, told, transfer = job_with(endpoint)
    assert data == RESULT
    assert endpoint.blobs == BLOBS
    assert len(endpoint.of("blob")) == 6 + len(BLOBS)
    assert "reconnecting" in kinds(told)
    assert max(sent for kind, (sent, _) in ((k, d) for k, d in told if k == "uploading")) == SIZE
    assert transfer.sent == set(BLOBS)


def test_cut_behind_an_accepted_submission():
    endpoint = BadEndpoint()

    async def accepts_and_drops(request: web.Request) -> web.StreamResponse:
        await endpoint.submit(request)
        return await drops(request)

    endpoint.faults = {"submit": [accepts_and_drops, drops]}
    assert job_with(endpoint)[0] == RESULT
    assert len(endpoint.of("submit")) == 3
    assert list(endpoint.jobs.values()) == ["job-1"], "the same key is the same job"


def test_events_go_on_behind_the_last_one():
    endpoint = BadEndpoint(events=[*(("step", {"value": n, "max": 6}) for n in range(1, 7)), done()])

    def first(count: int):
        async def some_then_drop(request: web.Request) -> web.StreamResponse:
            after = int(request.headers["Last-Event-ID"])
            await endpoint.send_events(request, after, after + count)
            await asyncio.sleep(0.05)
            return await drops(request)

        return some_then_drop

    endpoint.faults = {"events": [first(2), drops, first(0), first(3)]}
    data, told, _ = job_with(endpoint)
    assert data == RESULT
    assert [data["value"] for kind, data in told if kind == "step"] == [1, 2, 3, 4, 5, 6]
    assert [request.headers["Last-Event-ID"] for request in endpoint.of("events")] == ["0", "2", "2", "2", "5"]


def test_a_restarted_endpoint_counts_events_anew():
    endpoint = BadEndpoint()

    async def many_then_drop(request: web.Request) -> web.StreamResponse:
        stream = await event_stream(request)
        await stream.write(b'id: 57\nevent: step\ndata: {"value": 5, "max": 9}\n\n')
        await asyncio.sleep(0.05)
        return await drops(request)

    async def two_from_one(request: web.Request) -> web.StreamResponse:
        await endpoint.send_events(request, 0, 1)
        await asyncio.sleep(0.05)
        return await drops(request)

    endpoint.faults = {"events": [many_then_drop, two_from_one]}
    assert job_with(endpoint)[0] == RESULT
    assert [request.headers["Last-Event-ID"] for request in endpoint.of("events")] == ["0", "57", "1"]


def test_a_silent_endpoint_counts_as_cut_and_one_with_heartbeats_does_not():
    endpoint = BadEndpoint()

    async def beats_then_silence(request: web.Request) -> web.StreamResponse:
        stream = await event_stream(request)
        for _ in range(16):
            await stream.write(b": still here\n\n")
            await asyncio.sleep(0.1)
        silent.append(time.monotonic())
        await asyncio.sleep(600)
        return stream

    silent: list[float] = []
    endpoint.faults = {"events": [beats_then_silence]}
    data, told, _ = job_with(endpoint, silence=1.0)
    assert data == RESULT
    assert len(silent) == 1, "heartbeats for longer than the silence kept the connection"
    assert 0.5 < time.monotonic() - silent[0] < 60
    assert kinds(told).count("reconnecting") == 1


def sends(count: int, status: int = 200, whole: int | None = None):
    """Part of the result: `count` bytes from where the client asks for it, and the connection is cut."""

    async def fault(request: web.Request) -> web.StreamResponse:
        start = (request.http_range.start or 0) if status == 206 else 0
        answer = web.StreamResponse(status=status)
        answer.content_length = (whole or len(RESULT)) - start
        await answer.prepare(request)
        await answer.write(RESULT[start : start + count])
        await asyncio.sleep(0.05)
        return await drops(request)

    return fault


def test_a_download_goes_on_where_it_stopped():
    endpoint = BadEndpoint(faults={"result": [sends(100_000), sends(50_000, 206), drops, sends(1, 206)]})
    data, told, transfer = job_with(endpoint)
    assert data == RESULT
    requests = endpoint.of("result")
    assert [request.headers.get("Range") for request in requests] == [
        None,
        "bytes=100000-",
        "bytes=150000-",
        "bytes=150000-",
        "bytes=150001-",
    ]
    assert {request.headers["If-Range"] for request in requests[1:]} == {f'"{done()[1]["sha256"]}"'}
    assert transfer.download_bytes == len(RESULT)
    progress = [data[0] for kind, data in told if kind == "downloading"]
    assert progress == sorted(progress)


def test_a_download_from_a_server_without_ranges_starts_again():
    endpoint = BadEndpoint(faults={"result": [sends(100_000), answers(200, RESULT)]})
    assert job_with(endpoint)[0] == RESULT


def test_a_download_that_never_gets_further_ends():
    endpoint = BadEndpoint(faults={"result": [sends(1000)] * 1000})
    assert failed_job(endpoint, patience=0.5).code == "unreachable"


# Answers that are wrong


def test_a_result_with_another_hash_is_refused():
    endpoint = BadEndpoint(result=RESULT[:-1] + b"?")
    assert "hash" in str(failed_job(endpoint))


@pytest.mark.parametrize("size", [1 << 50, 100, 0, -1])
def test_a_result_of_another_size_is_refused(size):
    endpoint = BadEndpoint(events=[done(bytes=size)])
    assert failed_job(endpoint).code == "bad_answer"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "null",
        "[]",
        "{}",
        "[" * 50_000,
        {"job": "j", "state": "queued"},
        {"job": 5, "state": "queued", "missing": []},
        {"job": "../../../home/x", "state": "queued", "missing": []},
        {"job": "", "state": "queued", "missing": []},
        {"job": "j", "state": "queued", "missing": {}},
        {"job": "j", "state": "uploading", "missing": ["0" * 64]},
        {"job": "j", "state": "uploading", "missing": [["x"]]},
        b"\xff\xfe",
        "<html>Please log in</html>",
    ],
    ids=lambda body: str(body)[:40],
)
def test_a_submission_answered_with_nonsense(body):
    endpoint = BadEndpoint(faults={"submit": [answers(200, body)]})
    failure = failed_job(endpoint)
    assert failure.code == "bad_answer"
    assert "`velocity serve`" in str(failure)
    assert len(endpoint.of("submit")) == 1


def test_an_answer_that_never_ends_is_refused(monkeypatch):
    monkeypatch.setattr(client_module, "MAX_JSON", 1 << 20)
    bomb = gzip.compress(b" " * (1 << 24))
    endpoint = BadEndpoint(faults={"submit": [answers(200, bomb, **{"Content-Encoding": "gzip"})]})
    assert "longer than" in str(failed_job(endpoint))


@pytest.mark.parametrize(
    "lines",
    [
        "id: x\nevent: step\ndata: {}\n\n",
        'id: -1\nevent: step\ndata: {"value": 1, "max": 2}\n\n',
        f'id: {"9" * 5000}\nevent: step\ndata: {{"value": 1, "max": 2}}\n\n',
        "id: 1\nevent: step\ndata: {\n\n",
        "id: 1\nevent: step\ndata: []\n\n",
        'id: 1\nevent: step\ndata: {"value": "1", "max": 2}\n\n',
        'id: 1\nevent: queued\ndata: {"position": 1, "seconds": "soon"}\n\n',
        "id: 1\nevent: warning\ndata: {}\n\n",
        "id: 1\nevent: preview\ndata: {}\n\n",
        "id: 1\nevent: failed\ndata: {}\n\n",
        "id: 1\nevent: done\ndata: {}\n\n",
        'id: 1\nevent: done\ndata: {"bytes": 1, "sha256": "0", "seconds": 1, "models": []}\n\n',
        "data: " + "x" * 70_000,
    ],
    ids=lambda lines: lines[:70],
)
def test_events_that_are_nonsense(lines, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_LINE", 1 << 16)

    async def nonsense(request: web.Request) -> web.StreamResponse:
        stream = await event_stream(request)
        await stream.write(lines.encode())
        await asyncio.sleep(2)
        return stream

    endpoint = BadEndpoint(faults={"events": [nonsense]})
    assert failed_job(endpoint).code == "bad_answer"


def test_unknown_events_comments_and_crlf_do_no_harm():
    endpoint = BadEndpoint()

    async def odd(request: web.Request) -> web.StreamResponse:
        stream = await event_stream(request)
        await stream.write(b": hello\r\n\r\nretry: 10\r\n\r\nid: 1\r\nevent: mood\r\ndata: {}\r\n\r\nid:2\nda")
        await asyncio.sleep(0.05)
        await stream.write(b'ta:{"value":1,"max":2}\nevent:step\nfoo\n\ndata: {"half')
        return stream

    endpoint.faults = {"events": [odd]}
    endpoint.events = [("step", {"value": 9, "max": 9}), ("step", {"value": 9, "max": 9}), done()]
    data, told, _ = job_with(endpoint)
    assert data == RESULT
    assert told[-2][0] == "downloading"
    assert [item for item in told if item[0] in ("mood", "step")] == [("mood", {}), ("step", {"value": 1, "max": 2})]
    assert endpoint.of("events")[1].headers["Last-Event-ID"] == "2"


HTML = "<html><body>Bad gateway</body></html>"


@pytest.mark.parametrize("route", ["submit", "blob", "events", "result"])
@pytest.mark.parametrize(
    "fault",
    [refuses(503, "unavailable", Retry_After="0.05"), refuses(429, "rate_limited"), answers(502, HTML, "text/html")],
    ids=["503", "429", "html"],
)
def test_an_endpoint_that_is_away_for_a_while(route, fault):
    endpoint = BadEndpoint(faults={route: [fault] * 3})
    data, told, _ = job_with(endpoint)
    assert data == RESULT
    assert "reconnecting" in kinds(told)


def test_retry_after_is_obeyed_as_far_as_patience_goes():
    endpoint = BadEndpoint(faults={"submit": [refuses(429, "rate_limited", Retry_After="0.6")]})
    start = time.monotonic()
    job_with(endpoint)
    assert time.monotonic() - start >= 0.6
    for header in ("3600", "Wed, 21 Oct 2026 07:28:00 GMT"):
        endpoint = BadEndpoint(faults={"submit": [refuses(503, "unavailable", Retry_After=header)] * 1000})
        start = time.monotonic()
        assert failed_job(endpoint, patience=0.4).code == "unavailable"
        assert 0.4 <= time.monotonic() - start < 60


@pytest.mark.parametrize("route", ["submit", "blob", "events", "result"])
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthorized"), (413, "too_large"), (422, "missing_model"), (429, "queue_full"), (507, "disk_full")],
)
def test_a_refusal_is_final_and_says_what_to_do(route, status, code):
    endpoint = BadEndpoint(faults={route: [refuses(status, code)] * 9})
    failure = failed_job(endpoint, blobs={blob_name(b"1"): b"1"})
    assert (failure.code, str(failure)) == (code, f"because of {code}. do this.")
    assert len(endpoint.of(route)) == 1


def test_another_server_is_named_as_such():
    failure = failed_job(BadEndpoint(faults={"submit": [answers(404, HTML, "text/html")]}))
    assert failure.code == "bad_answer"
    assert "HTTP 404" in str(failure)


def test_an_error_that_comes_in_pieces():
    async def slowly(request: web.Request) -> web.StreamResponse:
        body = error(422, "missing_model", "no x.safetensors").body
        stream = web.StreamResponse(status=422)
        await stream.prepare(request)
        for piece in (body[:20], body[20:]):
            await stream.write(piece)
            await asyncio.sleep(0.05)
        return stream

    assert failed_job(BadEndpoint(faults={"submit": [slowly]})).code == "missing_model"


def test_a_refusal_before_the_body_was_read():
    async def too_large(request: web.Request) -> web.StreamResponse:
        answer = error(413, "too_large", "too large")
        answer.force_close()
        return answer

    data = b"x" * (8 << 20)
    endpoint = BadEndpoint(faults={"blob": [too_large] * 9})
    assert failed_job(endpoint, blobs={blob_name(data): data}).code == "too_large"
    assert len(endpoint.of("blob")) == 1


# Jobs that end otherwise


def test_a_failed_job_fails_with_its_own_error():
    failed = {"code": "execution_error", "message": "the sampler broke", "next": "use another"}
    failure = failed_job(BadEndpoint(events=[("failed", failed)]))
    assert (failure.code, str(failure)) == ("execution_error", "the sampler broke. use another.")
    assert failed_job(BadEndpoint(events=[("cancelled", {})])).code == "cancelled"


@pytest.mark.parametrize("code", ["gone", "not_found"])
@pytest.mark.parametrize("route", ["events", "result"])
def test_a_job_that_the_endpoint_forgot_starts_anew(route, code):
    endpoint = BadEndpoint(faults={route: [refuses(410 if code == "gone" else 404, code)]})
    data, told, _ = job_with(endpoint)
    assert data == RESULT
    assert len(endpoint.of("submit")) == 2
    if route == "result":
        assert kinds(told) == ["step", "step"], "its events are followed from the first one again"
    endpoint = BadEndpoint(faults={route: [refuses(410, code)] * 99})
    assert failed_job(endpoint).code == code
    assert len(endpoint.of("submit")) == ATTEMPTS


# Nobody there, somebody else there


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = BadEndpoint(url=f"http://127.0.0.1:{free.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(EndpointError, match="does not answer .* `velocity serve` running") as caught:
            run(one_job(endpoint, patience=0.5))
    assert caught.value.code == "unreachable"
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("url", ["http://no-such-host.invalid", "http://127.0.0.1:99999", "http://[::1"])
def test_addresses_that_lead_nowhere(url):
    with pytest.raises(EndpointError):
        run(one_job(BadEndpoint(url=url), patience=0.0))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("route", ["submit", "blob", "events", "result"])
def test_a_redirect_takes_neither_key_nor_tensors_elsewhere(route, status):
    async def play() -> tuple[EndpointError, BadEndpoint]:
        async with BadEndpoint().running() as elsewhere, BadEndpoint().running() as endpoint:

            async def redirects(request: web.Request) -> web.StreamResponse:
                await request.read()
                return web.Response(status=status, headers={"Location": elsewhere.url + request.path})

            endpoint.faults = {route: [redirects] * 99}
            with pytest.raises(EndpointError) as caught:
                await one_job(endpoint)
            return caught.value, elsewhere

    failure, elsewhere = run(play())
    assert failure.code == "bad_answer"
    assert f"HTTP {status}" in str(failure)
    assert elsewhere.requests == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this test")
def test_a_certificate_is_checked_against_the_given_one(tmp_path):
    file, private, blocker = tmp_path / "certificate.pem", tmp_path / "private.pem", tmp_path / "no certificate"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(file), "-keyout", str(private)]
    subprocess.run(command, check=True, capture_output=True)
    blocker.write_text("no certificate")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file, private)

    async def play(certificate: str | None) -> int:
        endpoint = BadEndpoint()
        async with (
            endpoint.running(tls=server),
            EndpointClient(Endpoint("test", endpoint.url, KEY, certificate)) as client,
        ):
            await client.health()
        return len(endpoint.requests)

    assert run(play(str(file))) == 1
    for certificate in (None, str(tmp_path / "missing.pem"), str(blocker)):
        with pytest.raises(EndpointError, match="Set `certificate` in endpoints.json") as caught:
            run(play(certificate))
        assert caught.value.code == "certificate"


# Slow networks


def test_a_slow_upload_is_no_silence():
    """300 kB at 1 Mbit/s take 2.4 s, most of it in the buffers of the system."""
    blobs = {blob_name(data): data for data in (b"s" * 300_000,)}
    took: list[float] = []
    endpoint = BadEndpoint()

    async def slowly(request: web.Request) -> web.StreamResponse:
        start, data = time.monotonic(), b""
        while piece := await request.content.read(4096):
            data += piece
            await asyncio.sleep(max(0.0, len(data) / 125_000 - (time.monotonic() - start)))
        took.append(time.monotonic() - start)
        endpoint.blobs[request.match_info["name"]] = data
        return web.Response(status=204)

    async def play():
        async with endpoint.running(receive_buffer=8192):
            return await one_job(endpoint, silence=1.2, blobs=blobs)

    endpoint.faults = {"blob": [slowly]}
    data, told, _ = run(play())
    assert data == RESULT
    assert endpoint.blobs == blobs
    assert took[0] > 2.3
    assert "reconnecting" not in kinds(told)


async def drips(request: web.Request) -> web.StreamResponse:
    """An answer that never ends, a byte at a time."""
    stream = web.StreamResponse(status=200 if request.method == "POST" else 500)
    await stream.prepare(request)
    while True:
        await stream.write(b" ")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("route", ["submit", "events"])
def test_an_answer_that_drips_is_cut(route):
    """Silence of 0.4 s is never reached."""
    failure = failed_job(BadEndpoint(faults={route: [drips] * 99}), silence=0.4, patience=1.0)
    assert failure.code == "unreachable"


def test_a_download_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr("velocity_nodes.remote.client.run_job.LEAST_SECONDS", 0.3)
    monkeypatch.setattr("velocity_nodes.remote.client.run_job.SLOWEST", len(RESULT))

    async def slowly(request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        for byte in RESULT:
            await stream.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return stream

    failure = failed_job(BadEndpoint(faults={"result": [slowly]}), patience=0.5)
    assert (failure.code, "less than" in str(failure)) == ("unreachable", True)


def test_patience_counts_from_the_first_failure():
    """What fails after longer than the patience is tried again all the same."""
    calls = 0

    async def action() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(0.3)
            raise EndpointError("unreachable", "cut")
        return calls

    assert run(Patience(0.2, lambda error: None).run(action)) == 2


# Cancelling


async def cancelled_while(endpoint: BadEndpoint, route: str) -> float:
    """Cancel a job once a request to `route` is under way, as the dispatcher does; return how long that takes."""
    async with EndpointClient(Endpoint("test", endpoint.url, KEY), 5.0) as client:
        job = JobRun(client, lambda kind, data: None, 5.0)
        task = asyncio.create_task(job.run({"key": "k", "cuts": list(BLOBS)}, BLOBS))
        while not endpoint.of(route):
            await asyncio.sleep(0.01)
        start = time.monotonic()
        task.cancel()
        await job.cancel()
        assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        return time.monotonic() - start


def waits(seconds: float):
    async def fault(request: web.Request) -> None:
        await asyncio.sleep(seconds)

    return fault


@pytest.mark.parametrize("route", ["submit", "blob", "events", "result"])
def test_cancelling_reaches_the_endpoint_at_any_time(route):
    endpoint = BadEndpoint(faults={route: [waits(0.4)]})

    async def play() -> float:
        async with endpoint.running():
            return await cancelled_while(endpoint, route)

    run(play())
    assert [request.path for request in endpoint.of("delete")] == ["/v1/jobs/job-1"]


def test_cancelling_does_not_hang_on_an_endpoint_that_does():
    endpoint = BadEndpoint(faults={"events": [waits(600)], "delete": [waits(600)]})

    async def play() -> float:
        async with endpoint.running():
            return await cancelled_while(endpoint, "events")

    assert 1.5 < run(play()) < 60


def test_cancelling_before_anything_was_sent():
    async def play() -> None:
        async with EndpointClient(Endpoint("test", "http://127.0.0.1:9", KEY)) as client:
            await JobRun(client, lambda kind, data: None).cancel()

    run(play())
