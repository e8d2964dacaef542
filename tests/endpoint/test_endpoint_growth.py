"""Nothing grows without bound: what jobs leave behind, what is remembered, what is said."""

import asyncio
import json
import logging
import sqlite3

import pytest
from served_app import blob, manifest, sampler_inputs, served
from velocity_nodes.remote.endpoint.admission.refusal import error_of
from velocity_nodes.remote.endpoint.store import estimates, events
from velocity_nodes.remote.endpoint.store.estimates import Estimates
from velocity_nodes.remote.endpoint.store.job import DONE, FAILED, Job
from velocity_nodes.remote.endpoint.store.journal import Journal
from velocity_nodes.remote.wire import short_text


def run(scene, *arguments, **options):
    async def inside():
        async with served(*arguments, **options) as endpoint:
            return await asyncio.wait_for(scene(endpoint), 60)

    return asyncio.run(inside())


def on_disk(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_released_jobs_leave_little_behind(tmp_path):
    """And the endpoint still tells the same job from another one."""

    async def scene(endpoint):
        large = sampler_inputs(**{f"text{number}": "x" * 20_000 for number in range(50)})
        before = on_disk(tmp_path)
        for number in range(8):
            job = (await endpoint.submit(key=f"key-of-the-job-{number:02}", graph=large))["job"]
            endpoint.scheduler.finish(job)
            assert (await endpoint.session.delete(f"/v1/jobs/{job}")).status == 204
        endpoint.app.state.expire()
        assert on_disk(tmp_path) - before < 500_000
        last = {"key": "key-of-the-job-07"}
        assert await endpoint.error("POST", "/v1/jobs", json=manifest(**last)) == (409, "conflict")
        again = await endpoint.submit(**last, graph=large)
        assert (again["job"], again["state"]) == (job, "queued")
        assert endpoint.scheduler.submitted[-1].manifest["graph"] == large

    run(scene, tmp_path)


def test_a_journal_of_before_shrinks_too(tmp_path):
    with sqlite3.connect(tmp_path / "journal.sqlite") as old:
        old.execute("CREATE TABLE filler (text TEXT)")
        old.execute("INSERT INTO filler VALUES (?)", ("x" * 5_000_000,))
    journal = Journal(tmp_path / "journal.sqlite")
    journal._database.execute("DROP TABLE filler")
    journal.shrink()
    assert on_disk(tmp_path) < 500_000


def test_finished_jobs_are_remembered_up_to_a_number_for_each_key(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for number, (owner, state) in enumerate([("anna", DONE), *[("anna", FAILED)] * 3, ("berta", DONE)]):
        journal.create(Job(f"id{number}", owner, f"key{number}", {}, state=state, finished=100.0 + number))
    assert sorted(journal.forget(before=0.0, most=2)) == ["id1", "id2"], "results that wait are kept before others"
    assert journal.get("id0").state == DONE and journal.get("id4").state == DONE


def test_logs_of_ended_jobs_are_dropped_and_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "MAX_ENDED", 2)

    async def scene(endpoint):
        jobs = [(await endpoint.submit(key=f"key-of-the-job-{number:02}"))["job"] for number in range(4)]
        for job in jobs:
            endpoint.scheduler.finish(job)
        assert [endpoint.scheduler.events.has(job) for job in jobs] == [False, False, True, True]
        assert [kind for _, kind in await endpoint.events(jobs[0])] == ["done"]

    run(scene, tmp_path)


def test_estimates_are_bounded_and_one_measurement_does_not_spoil_them(tmp_path, monkeypatch):
    monkeypatch.setattr(estimates, "MAX_NOTES", 5)
    journal = Journal(tmp_path / "journal.sqlite")
    known = Estimates(journal)
    fills = [{"@fill": 0, "dtype": "float32", "shape": [1, 1, 1, side]} for side in range(1, 20)]
    for fill in fills:
        known.record(manifest(cuts=[[fill]]), 4.0, None, 1)
    assert len(journal.notes("seconds per step")) == 5
    last = manifest(cuts=[[fills[-1]]])
    assert known.job_seconds(last) == pytest.approx(4.0)
    known.record(last, 1e6, None, 1)
    assert known.job_seconds(last) < 10.0
    known.record(last, 0.0, None, 1)
    assert known.job_seconds(last) > 2.0


def test_blobs_are_bounded_in_number(tmp_path, monkeypatch):
    monkeypatch.setattr("velocity_nodes.remote.endpoint.store.blobs.MAX_BLOBS", 3)

    async def scene(endpoint):
        for filled in range(6):
            assert await endpoint.put(blob(filled=filled)) == 204
        assert len(list(tmp_path.glob("blobs/??/*"))) == 3
        endpoint.app.state.expire()
        assert len(endpoint.scheduler.journal.notes("senders of blob")) == 3

    run(scene, tmp_path)


def test_a_refusal_is_short_whatever_was_sent(tmp_path):
    async def scene(endpoint):
        names = {f"model{number}": f"{number:04}" + "x" * 19_000 + ".safetensors" for number in range(100)}
        async with endpoint.session.post("/v1/jobs", json=manifest(graph=sampler_inputs(**names))) as answer:
            assert answer.status == 422 and len(await answer.read()) < 10_000

    run(scene, tmp_path)
    error = error_of("execution_error", "a" * 10_000 + "the cause", "b" * 10_000, classes=["c" * 10_000] * 1_000)
    assert len(json.dumps(error)) < 10_000 and error["message"].endswith("the cause")


def test_log_records_are_short():
    record = logging.LogRecord("velocity", logging.ERROR, "", 0, "it says %s", ("x" * 4_000_000,), None)
    assert short_text.Shortening().filter(record)
    assert record.getMessage().startswith("it says x") and len(record.getMessage()) < short_text.LONGEST + 10
