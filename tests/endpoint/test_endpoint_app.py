"""The routes, asked by a real client over a real socket: jobs, blobs, events, results, and what is refused."""

import asyncio
import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from served_app import ANNA, BERTA, blob, manifest, sampler_inputs, served, tensor
from velocity_nodes.remote.endpoint.api.routes import ResultFile
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.wire.blob import blob_name, encode_header


def run(scene, *arguments, **options):
    async def inside():
        async with served(*arguments, **options) as endpoint:
            return await asyncio.wait_for(scene(endpoint), 60)

    return asyncio.run(inside())


def test_a_job_from_submission_to_release(tmp_path):
    async def scene(endpoint):
        blobs = [blob(filled=1), blob(filled=2)]
        cuts = [[tensor(blobs[0])], [{"a": [tensor(blobs[1]), tensor(blobs[0])]}]]
        graph = sampler_inputs(positive={"@cut": 0}, negative={"@cut": 1})
        answer = await endpoint.submit(graph=graph, cuts=cuts)
        job = answer["job"]
        assert (answer["state"], answer["missing"]) == ("uploading", [blob_name(data) for data in blobs])
        assert await endpoint.put(blobs[0]) == 204
        assert not endpoint.scheduler.submitted
        assert (await endpoint.submit(graph=graph, cuts=cuts))["missing"] == [blob_name(blobs[1])]
        assert await endpoint.put(blobs[1]) == 204
        assert [found.id for found in endpoint.scheduler.submitted] == [job]
        assert endpoint.scheduler.submitted[0].owner == "anna"
        following = asyncio.create_task(endpoint.events(job))
        await asyncio.sleep(0.05)
        content = os.urandom(300_000)
        endpoint.scheduler.finish(job, content)
        expected = [(1, "queued"), (2, "running"), (3, "step"), (4, "done")]
        assert await following == expected
        assert await endpoint.events(job) == expected
        assert await endpoint.events(job, **{"Last-Event-ID": "2"}) == expected[2:]
        async with endpoint.session.get(f"/v1/jobs/{job}") as answer:
            state = await answer.json()
        assert state["state"] == "done" and state["result"]["bytes"] == len(content) and state["error"] is None
        etag = f'"{state["result"]["sha256"]}"'
        async with endpoint.session.get(f"/v1/jobs/{job}/result") as answer:
            assert (answer.headers["ETag"], await answer.read()) == (etag, content)
        headers = {"Range": "bytes=250000-", "If-Range": etag}
        async with endpoint.session.get(f"/v1/jobs/{job}/result", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (206, content[250000:])
        headers["If-Range"] = '"another"'
        async with endpoint.session.get(f"/v1/jobs/{job}/result", headers=headers) as answer:
            assert (answer.status, await answer.read()) == (200, content)
        for _ in range(2):
            async with endpoint.session.delete(f"/v1/jobs/{job}") as answer:
                assert answer.status == 204
        assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (410, "gone")
        assert await endpoint.error("GET", f"/v1/jobs/{job}/events") == (410, "gone")
        assert not list((tmp_path / "results").iterdir())

    run(scene, tmp_path)


def test_the_same_key_is_the_same_job_and_runs_once(tmp_path):
    async def scene(endpoint):
        answers = await asyncio.gather(*(endpoint.submit() for _ in range(8)))
        job = answers[0]["job"]
        assert {answer["job"] for answer in answers} == {job}
        assert len(endpoint.scheduler.submitted) == 1
        assert await endpoint.error("POST", "/v1/jobs", json=manifest(preview=False)) == (409, "conflict")
        async with endpoint.other.post("/v1/jobs", json=manifest(preview=False)) as answer:
            assert (await answer.json())["job"] != job
        endpoint.scheduler.finish(job)
        assert (await endpoint.submit())["state"] == "done"
        assert len(endpoint.scheduler.submitted) == 2

    run(scene, tmp_path)


@pytest.mark.parametrize("end", ["fail", "cancel", "release", "lose"])
def test_a_job_that_is_over_starts_anew_under_its_id(tmp_path, end):
    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        if end == "fail":
            endpoint.scheduler.fail(job)
        if end in ("release", "lose"):
            endpoint.scheduler.finish(job)
        if end == "lose":
            (tmp_path / "results" / f"{job}.bin").unlink()
            assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (410, "gone")
        if end in ("cancel", "release"):
            await endpoint.session.delete(f"/v1/jobs/{job}")
        answer = await endpoint.submit()
        assert (answer["job"], answer["state"]) == (job, "queued")
        assert len(endpoint.scheduler.submitted) == 2
        assert endpoint.scheduler.submitted[1].attempts == 0
        endpoint.scheduler.finish(job)
        assert [kind for _, kind in await endpoint.events(job)] == ["queued", "running", "step", "done"]

    run(scene, tmp_path)


def test_a_restart_forgets_nothing_that_was_accepted(tmp_path):
    data = blob()
    waits = {"key": "waits-for-its-blob", "cuts": [[tensor(data)]]}

    async def before(endpoint):
        done = await endpoint.submit()
        endpoint.scheduler.finish(done["job"])
        failed = await endpoint.submit(key="this-one-has-failed")
        endpoint.scheduler.fail(failed["job"])
        queued = await endpoint.submit(key="this-one-is-queued")
        runs = await endpoint.submit(key="this-one-runs-now-")
        endpoint.scheduler.journal.update(runs["job"], state="running", attempts=1)
        return [answer["job"] for answer in (done, failed, queued, runs, await endpoint.submit(**waits))]

    async def after(endpoint):
        done, failed, queued, runs, waiting = jobs
        assert [(job.id, job.state, job.attempts) for job in endpoint.scheduler.submitted] == [
            (queued, "queued", 0),
            (runs, "queued", 1),
        ]
        assert await endpoint.events(done, **{"Last-Event-ID": "3"}) == [(1, "done")]
        assert await endpoint.events(failed) == [(1, "failed")]
        async with endpoint.session.get(f"/v1/jobs/{done}/result") as answer:
            assert await answer.read() == b"result"
        assert (await endpoint.submit(**waits))["job"] == waiting
        assert await endpoint.put(data) == 204
        assert endpoint.scheduler.submitted[-1].id == waiting

    jobs = run(before, tmp_path)
    run(after, tmp_path)


def test_jobs_belong_to_the_key_that_made_them(tmp_path):
    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        for method, path in [("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")]:
            async with endpoint.other.request(method, f"/v1/jobs/{job}{path}") as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")
        async with endpoint.session.get(f"/v1/jobs/{job}") as answer:
            assert (await answer.json())["state"] == "queued"

    run(scene, tmp_path)


def test_nothing_but_health_is_told_without_a_key(tmp_path):
    async def scene(endpoint):
        async with endpoint.nobody.get("/v1/health") as answer:
            assert (await answer.json())["workers"] == [{"state": "ready"}]
            assert "Server" not in answer.headers
        routes = [("GET", "/v1/capabilities"), ("POST", "/v1/jobs"), ("GET", "/metrics"), ("PUT", "/v1/blobs/x")]
        routes += [(method, "/v1/jobs/x") for method in ("GET", "DELETE")]
        for method, path in [*routes, ("GET", "/v1/jobs/x/events"), ("GET", "/v1/jobs/x/result")]:
            for header in [
                None,
                "Bearer",
                "Bearer ",
                f"Bearer {ANNA}x",
                f"Basic {ANNA}",
                f"Bearer {ANNA[:-1]}",
                "\xff",
            ]:
                headers = {"Authorization": header} if header is not None else {}
                async with endpoint.nobody.request(method, path, headers=headers) as answer:
                    assert (answer.status, (await answer.json())["error"]["code"]) == (401, "unauthorized")
        for path in ("/docs", "/openapi.json", "/redoc", "/"):
            async with endpoint.nobody.get(path) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (404, "not_found")

    run(scene, tmp_path)


def test_bodies_are_held_to_their_limit_packed_or_not(tmp_path):
    async def scene(endpoint):
        job = json.dumps(manifest()).encode()
        headers = {"Content-Encoding": "gzip"}
        async with endpoint.session.post("/v1/jobs", data=gzip.compress(job), headers=headers) as answer:
            assert answer.status == 200, await answer.text()

        async def chunks(data):
            for start in range(0, len(data), 65536):
                yield data[start : start + 65536]

        bomb = gzip.compress(b" " * 100_000_000)
        for data, more, expected in [
            (b" " * 5_000_000, {}, "too_large"),
            (chunks(b" " * 50_000_000), {}, "too_large"),
            (bomb, headers, "too_large"),
            (chunks(bomb), headers, "too_large"),
            (gzip.compress(job)[:-3], headers, "bad_request"),
            (gzip.compress(job) + b"more", headers, "bad_request"),
            (job, headers, "bad_request"),
            (job, {"Content-Encoding": "br"}, "bad_request"),
        ]:
            assert (await endpoint.error("POST", "/v1/jobs", data=data, headers=more))[1] == expected
        assert len(endpoint.scheduler.submitted) == 1

    run(scene, tmp_path)


def test_a_bomb_takes_no_more_memory_than_its_limit(tmp_path):
    async def scene(endpoint):
        bomb = gzip.compress(b" " * 200_000_000)
        tracemalloc.start()
        try:
            headers = {"Content-Encoding": "gzip"}
            assert await endpoint.error("POST", "/v1/jobs", data=bomb, headers=headers) == (413, "too_large")
            assert tracemalloc.get_traced_memory()[1] < 30_000_000
        finally:
            tracemalloc.stop()

    run(scene, tmp_path)


@pytest.mark.parametrize(
    ("request_line", "length", "begin", "status"),
    [
        ("POST /v1/jobs", 5_000_000, b"", 413),
        (f"PUT /v1/blobs/{'0' * 64}", 1 << 33, b"", 413),
        (f"PUT /v1/blobs/{'0' * 64}", 1 << 30, b"\xff" * 2000, 422),
        ("DELETE /v1/jobs/none", 1 << 30, b"", 404),
    ],
)
def test_an_error_before_the_end_of_the_body_ends_the_connection(tmp_path, request_line, length, begin, status):
    async def scene(endpoint):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(endpoint.url.rsplit(":", 1)[1]))
        head = f"{request_line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANNA}\r\nContent-Length: {length}\r\n\r\n"
        writer.write(head.encode() + begin)
        assert (await asyncio.wait_for(reader.readline(), 1)).split()[1] == str(status).encode()
        await asyncio.wait_for(reader.read(), 5)  # to its end
        writer.close()

    run(scene, tmp_path)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"nul", b'"\xff"', b"[" * 40_000, b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1e999}', b"null"]
    + [b'{"protocol": 1, "key": 1' + b"0" * 5000 + b"}", json.dumps(manifest(key="\ud800" * 20)).encode()]
    + [json.dumps(manifest(graph={"5": {"class_type": "\ud800", "inputs": {}}})).encode()],
)
def test_what_is_no_manifest_is_a_bad_request(tmp_path, body):
    async def scene(endpoint):
        assert await endpoint.error("POST", "/v1/jobs", data=body) == (400, "bad_request")

    run(scene, tmp_path)


def test_blobs_are_checked_while_they_arrive(tmp_path):
    async def scene(endpoint):
        good = blob(1 << 20)
        path = f"/v1/blobs/{blob_name(good)}"
        sent = 0

        async def endless():
            nonlocal sent
            yield good
            while True:
                sent += 65536
                yield b"\0" * 65536

        assert await endpoint.error("PUT", path, data=endless()) == (422, "bad_blob")
        assert sent < 64 << 20
        assert await endpoint.error("PUT", path, data=good[:-1]) == (422, "bad_blob")
        assert await endpoint.error("PUT", path, data=good[:-1] + b"\2") == (422, "bad_blob")
        assert await endpoint.error("PUT", path, data=b"\xff" * 9_000_000) == (422, "bad_blob")
        huge = encode_header("F32", (1 << 40,))
        assert await endpoint.error("PUT", path, data=huge) == (413, "too_large")
        async with endpoint.session.head(path) as answer:
            assert answer.status == 404
        assert await endpoint.error("PUT", "/v1/blobs/" + "A" * 64, data=good) == (400, "bad_request")
        assert await endpoint.put(good) == 204
        assert await endpoint.put(good) == 204
        async with endpoint.session.head(path) as answer:
            assert answer.status == 200
        assert [file for file in tmp_path.glob("blobs/*/*")] == [
            tmp_path / "blobs" / blob_name(good)[:2] / blob_name(good)
        ]

    run(scene, tmp_path)


def test_a_client_that_goes_away_leaves_nothing_behind(tmp_path):
    async def scene(endpoint):
        host, port = endpoint.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        data = blob(4 << 20)
        head = f"PUT /v1/blobs/{blob_name(data)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ANNA}\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: 3 << 20])
        await writer.drain()
        while not list((tmp_path / "blobs" / "arriving").iterdir()):
            await asyncio.sleep(0.01)
        writer.close()
        end = time.monotonic() + 60
        while list((tmp_path / "blobs" / "arriving").iterdir()) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        assert not list((tmp_path / "blobs" / "arriving").iterdir())
        assert await endpoint.put(data) == 204

    run(scene, tmp_path)


def test_a_blob_that_does_not_fit_its_place_fails_the_job(tmp_path):
    async def scene(endpoint):
        data = blob()
        wrong = [
            {**tensor(data), "dtype": "float32"},
            {**tensor(data), "shape": [99]},
            {**tensor(data), "shape": [1, 100, 100], "rows": 1},
        ]
        for number, packed in enumerate([*wrong, {**tensor(data), "dtype": "int32"}]):
            fits = number == len(wrong)
            answer = await endpoint.submit(key=f"key-of-the-blob-{number}", cuts=[[tensor(data), packed]])
            if answer["missing"]:
                assert await endpoint.put(data) == 204
            async with endpoint.session.get(f"/v1/jobs/{answer['job']}") as state:
                found = await state.json()
            assert found["state"] == ("queued" if fits else "failed")
            if not fits:
                assert found["error"]["code"] == "bad_blob"
                assert (await endpoint.events(answer["job"]))[-1][1] == "failed"
        assert len(endpoint.scheduler.submitted) == 1

    run(scene, tmp_path)


def test_deleting_a_job_in_any_state(tmp_path):
    async def scene(endpoint):
        data = blob()
        uploads = (await endpoint.submit(key="it-waits-for-a-blob", cuts=[[tensor(data)]]))["job"]
        queued = (await endpoint.submit())["job"]
        for job in (uploads, queued):
            following = asyncio.create_task(endpoint.events(job))
            async with endpoint.session.delete(f"/v1/jobs/{job}") as answer:
                assert answer.status == 204
            assert (await following)[-1][1] == "cancelled"
            assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (404, "not_found")
        assert await endpoint.put(data) == 204
        assert [job.id for job in endpoint.scheduler.submitted] == [queued]
        assert await endpoint.error("DELETE", "/v1/jobs/none") == (404, "not_found")

    run(scene, tmp_path)


def test_the_queue_and_the_rate_have_limits(tmp_path):
    async def scene(endpoint):
        for number in range(3):
            await endpoint.submit(key=f"key-of-the-job-{number:02}")
        async with endpoint.session.post("/v1/jobs", json=manifest()) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "10")
            assert (await answer.json())["error"]["code"] == "queue_full"
        assert (await endpoint.submit(key="key-of-the-job-00"))["state"] == "queued"  # known: no place needed
        statuses = []
        for _ in range(8):
            async with endpoint.session.get("/v1/capabilities") as answer:
                statuses.append(answer.status)
        assert statuses[:5] == [200] * 5 and statuses[-1] == 429
        async with endpoint.other.get("/v1/capabilities") as answer:
            assert answer.status == 200
        await asyncio.sleep(1.1)
        async with endpoint.session.get("/v1/capabilities") as answer:
            assert answer.status == 200

    run(scene, tmp_path, Limits(queue=3, burst=10, rate=1.0, share=1.0))


def test_an_endpoint_without_workers_says_so(tmp_path):
    async def scene(endpoint):
        endpoint.scheduler.known = None
        assert await endpoint.error("GET", "/v1/capabilities") == (503, "unavailable")
        graph = sampler_inputs()
        graph["5"]["class_type"] = "NotKnownYet"
        assert (await endpoint.submit(graph=graph))["state"] == "queued"  # checked when a worker is there
        endpoint.scheduler.workers = [{"state": "failed"}]
        assert await endpoint.error("POST", "/v1/jobs", json=manifest(key="another-key-than-that")) == (
            503,
            "unavailable",
        )
        await endpoint.app.state.stop()
        assert endpoint.scheduler.stopped == 1
        endpoint.scheduler.workers = [{"state": "ready"}]
        assert await endpoint.error("POST", "/v1/jobs", json=manifest(key="another-key-than-that")) == (
            503,
            "unavailable",
        )

    run(scene, tmp_path)


def test_node_classes_and_models_are_checked_at_submission(tmp_path):
    async def scene(endpoint):
        graph = sampler_inputs()
        graph["1"]["inputs"]["unet_name"] = "unknown.safetensors"
        async with endpoint.session.post("/v1/jobs", json=manifest(graph=graph)) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"], error["models"]) == (422, "missing_model", ["unknown.safetensors"])
        graph["5"]["class_type"] = "SaveImage"
        async with endpoint.session.post("/v1/jobs", json=manifest(graph=graph)) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"], error["classes"]) == (422, "unsupported_node", ["SaveImage"])
        assert await endpoint.error("POST", "/v1/jobs", json=manifest(protocol=2)) == (400, "protocol")

    run(scene, tmp_path)


def test_a_quiet_stream_is_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("velocity_nodes.remote.endpoint.api.routes.HEARTBEAT_SECONDS", 0.05)

    async def scene(endpoint):
        job = (await endpoint.submit(cuts=[[tensor(blob())]]))["job"]
        async with endpoint.session.get(f"/v1/jobs/{job}/events") as answer:
            lines = [await answer.content.readline() for _ in range(6)]
        assert [line for line in lines if line.startswith(b":")] == [b": here\n", b": still here\n", b": still here\n"]

    run(scene, tmp_path)


@pytest.mark.soak("it asserts a speed")
def test_the_first_event_comes_within_20_ms(tmp_path):
    async def scene(endpoint):
        endpoint.scheduler.at_once = True
        seconds = []
        for number in range(30):
            start = time.perf_counter()
            job = (await endpoint.submit(key=f"key-of-the-job-{number:02}"))["job"]
            async with endpoint.session.get(f"/v1/jobs/{job}/events") as answer:
                while not (await answer.content.readline()).startswith(b"event"):
                    pass
                seconds.append(time.perf_counter() - start)
        assert sorted(seconds)[15] < 0.02

    run(scene, tmp_path)


def test_a_result_that_is_released_while_it_is_asked_for_is_gone(tmp_path, monkeypatch):
    send = ResultFile.__call__

    async def late(self, *arguments):
        Path(self.path).unlink()
        await send(self, *arguments)

    monkeypatch.setattr(ResultFile, "__call__", late)

    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        endpoint.scheduler.finish(job)
        assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (410, "gone")

    run(scene, tmp_path)


def test_old_results_expire(tmp_path):
    async def scene(endpoint):
        job = (await endpoint.submit())["job"]
        endpoint.scheduler.finish(job)
        endpoint.scheduler.journal.update(job, finished=time.time() - 3601)
        endpoint.app.state.expire()
        assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (410, "gone")
        assert not list((tmp_path / "results").iterdir())
        endpoint.scheduler.journal.update(job, finished=time.time() - 7201)
        endpoint.app.state.expire()
        assert await endpoint.error("GET", f"/v1/jobs/{job}/result") == (404, "not_found")

    run(scene, tmp_path, keep_hours=1.0)


def test_metrics_count_what_happened(tmp_path):
    async def scene(endpoint):
        await endpoint.submit()
        data = blob(100_000)
        await endpoint.put(data)
        await endpoint.error("GET", "/v1/jobs/none")
        async with endpoint.session.get("/metrics") as answer:
            assert answer.content_type == "text/plain"
            lines = (await answer.text()).splitlines()
        for line in ['velocity_jobs{state="queued"} 1.0', 'velocity_refusals_total{code="not_found"} 1.0']:
            assert line in lines
        assert 'velocity_workers{state="ready"} 1.0' in lines
        received = next(float(line.split()[1]) for line in lines if line.startswith("velocity_received_bytes_total"))
        assert len(data) < received < len(data) + 2000

    run(scene, tmp_path)


def test_a_failure_of_ours_is_an_answer_too(tmp_path, caplog):
    async def scene(endpoint):
        endpoint.scheduler.capabilities = lambda: 1 / 0
        assert await endpoint.error("GET", "/v1/capabilities") == (500, "internal")

    run(scene, tmp_path)
    assert "ZeroDivisionError" in caplog.text
    assert BERTA not in caplog.text and ANNA not in caplog.text
