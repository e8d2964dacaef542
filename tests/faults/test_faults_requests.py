"""Requests that come twice, in another order, with the wrong key, or for what the endpoint does not have."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_setup import ANNA, FORMER
from raw_protocol import Raw, tiny_job

from dev.client import PromptError
from dev.server import TINY_MODEL


@pytest.mark.parametrize("uploaded", ["before", "after"])
def test_the_same_submission_five_times_at_once(rig, uploaded):
    manifest, blobs = tiny_job(rig.seed())
    if uploaded == "before":
        assert [rig.raw.put(data).status for data in blobs.values()] == [204] * len(blobs)
    known = rig.jobs()
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda raw: raw("POST", "/v1/jobs", manifest), [rig.raw for _ in range(5)]))
        assert {answer.status for answer in answers} == {200}
        if uploaded == "after":  # five times as well
            puts = pool.map(lambda raw: [raw.put(data).status for data in blobs.values()], [rig.raw for _ in range(5)])
            assert {status for statuses in puts for status in statuses} == {204}
    (job,) = {answer.json["job"] for answer in answers}
    assert rig.raw.wait(job)["state"] == "done"
    assert rig.new_job(known).attempts == 1 and rig.completed(job) == 1
    again = rig.raw("POST", "/v1/jobs", manifest).json
    assert (again["job"], again["state"], again["missing"]) == (job, "done", [])
    assert rig.completed(job) == 1


def test_blobs_before_the_job(rig):
    manifest, blobs = tiny_job(rig.seed())
    for data in blobs.values():
        assert rig.raw.put(data).status == 204
    answer = rig.raw("POST", "/v1/jobs", manifest).json
    assert answer["missing"] == [] and rig.raw.wait(answer["job"])["state"] == "done"


def test_events_before_the_upload(rig):
    manifest, blobs = tiny_job(rig.seed())
    job = rig.raw("POST", "/v1/jobs", manifest).json["job"]
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(rig.raw.events, job)
        for data in blobs.values():
            rig.raw.put(data)
        kinds = [kind for kind, _ in stream.result(30)]
    assert kinds[0] == "queued" and kinds[-1] == "done" and "running" in kinds
    assert [kind for kind, _ in rig.raw.events(job)][-1] == "done"


def test_deleted_twice(rig):
    manifest, blobs = tiny_job(rig.seed(), steps=500)
    job = rig.raw("POST", "/v1/jobs", manifest).json["job"]
    for data in blobs.values():
        rig.raw.put(data)
    rig.until_step()
    assert [rig.raw("DELETE", f"/v1/jobs/{job}").status for _ in range(2)] == [204, 204]
    assert rig.raw.wait(job)["state"] == "cancelled"
    done = rig.raw.run(*tiny_job(rig.seed()))["job"]
    assert [rig.raw("DELETE", f"/v1/jobs/{done}").status for _ in range(2)] == [204, 204]
    answer = rig.raw("GET", f"/v1/jobs/{done}/result")
    assert answer.status == 410 and answer.error["code"] == "gone"
    assert rig.completed(job) == 0 and rig.completed(done) == 1


def test_another_job_under_the_same_key(rig):
    manifest, blobs = tiny_job(rig.seed())
    job = rig.raw.run(manifest, blobs)["job"]
    other, _ = tiny_job(rig.seed(), key=manifest["key"])
    answer = rig.raw("POST", "/v1/jobs", other)
    assert answer.status == 409 and answer.error["code"] == "conflict"
    assert rig.raw("GET", f"/v1/jobs/{job}").json["state"] == "done"


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (None, "carries no key"),
        ("a-key-that-nobody-has", "not known here"),
        (FORMER, "expired at 2020-01-01"),
    ],
)
def test_wrong_key(rig, key, cause):
    known = rig.jobs()
    answers = [
        Raw(rig.endpoint.url, key)(method, path, *body)
        for method, path, *body in [
            ("POST", "/v1/jobs", tiny_job(rig.seed())[0]),
            ("PUT", "/v1/blobs/" + "0" * 64, b"1"),
            ("GET", f"/v1/jobs/{known[0].id}"),
            ("DELETE", f"/v1/jobs/{known[0].id}"),
            ("GET", "/v1/capabilities"),
            ("GET", "/metrics"),
        ]
    ]
    assert {answer.status for answer in answers} == {401}
    assert all(cause in answer.error["message"] for answer in answers)
    assert key is None or all(key.encode() not in answer.body for answer in answers)
    assert rig.jobs() == known


@pytest.mark.parametrize(
    ("key", "cause"), [("a-key-that-nobody-has", "the key is not known here"), (FORMER, "expired")]
)
def test_wrong_key_of_the_user(rig, key, cause):
    """No patience is spent on it: another try would not help."""
    name = rig.connect("wrong " + key, rig.endpoint.url, patience_seconds=3600, key=key)
    painting = rig.start(rig.graph(), name)
    painting.assert_right()
    assert painting.ran_here and cause in painting.log and key not in painting.log
    with pytest.raises(PromptError, match=f"{cause}.*VELOCITY_API_KEY|{cause}.*new one"):
        rig.start(rig.graph(), name, on_failure="raise").assert_right()


def test_a_job_of_another_key_does_not_exist(rig):
    anna = Raw(rig.endpoint.url, ANNA)
    manifest, blobs = tiny_job(rig.seed())
    job = rig.raw.run(manifest, blobs)["job"]
    for method, path in [("GET", ""), ("GET", "/events"), ("GET", "/result"), ("DELETE", "")]:
        answer = anna(method, f"/v1/jobs/{job}{path}")
        assert answer.status == 404 and answer.error["code"] == "not_found"
    assert rig.raw("GET", f"/v1/jobs/{job}/result").status == 200
    hers = anna.run(manifest, blobs)
    assert hers["state"] == "done" and hers["job"] != job, "the same idempotency key is another job of hers"


def test_another_protocol_version(rig):
    answer = rig.raw("POST", "/v1/jobs", {**tiny_job(rig.seed())[0], "protocol": 2})
    assert answer.status == 400 and answer.error["code"] == "protocol"
    assert "protocol 2, this endpoint 1" in answer.error["message"] and "same version" in answer.error["next"]


def test_missing_model(rig):
    """The user has a model that the endpoint has not."""
    models = rig.client.folder / "models" / "diffusion_models"
    shutil.copyfile(models / TINY_MODEL, models / "only_here.safetensors")
    graph = rig.graph()
    graph["loader"]["inputs"]["unet_name"] = "only_here.safetensors"
    painting = rig.start(graph)
    painting.assert_right()
    assert painting.ran_here and "does not have the model files 'only_here.safetensors'" in painting.log
    with pytest.raises(PromptError, match="copy them into the models folders of the endpoint"):
        rig.start(graph, on_failure="raise", deadline_seconds=9).assert_right()
    manifest, _ = tiny_job(rig.seed())
    manifest["graph"]["1"]["inputs"]["unet_name"] = "only_here.safetensors"
    answer = rig.raw("POST", "/v1/jobs", manifest)
    assert (answer.status, answer.error["code"], answer.error["models"]) == (
        422,
        "missing_model",
        ["only_here.safetensors"],
    )


def test_missing_node(rig):
    """The user has a node that the endpoint has not: the sampler runs here, as with a missing model, or the error names
    the node; `auto` runs it here in either case."""
    graph = rig.graph()
    graph["private"] = {"class_type": "PrivateModelNode", "inputs": {"model": ["loader", 0]}}
    graph["sampler"]["inputs"]["model"] = ["private", 0]
    with pytest.raises(PromptError, match="does not run PrivateModelNode .*--allow PrivateModelNode"):
        rig.start(graph, on_failure="raise").assert_right()
    for widgets in ({}, {"route": "auto", "on_failure": "raise"}):
        graph["sampler"]["inputs"]["seed"] = rig.seed()
        painting = rig.start(graph, **widgets)
        painting.assert_right()
        assert painting.ran_here and "PrivateModelNode" in painting.log
    manifest, _ = tiny_job(rig.seed())
    manifest["graph"]["1"]["class_type"] = "LoadImage"
    answer = rig.raw("POST", "/v1/jobs", manifest)
    assert (answer.status, answer.error["code"], answer.error["classes"]) == (422, "unsupported_node", ["LoadImage"])


def test_a_follower_that_goes_away_in_the_middle(rig):
    """The job goes on without it, and another follower hears the rest."""
    manifest, blobs = tiny_job(rig.seed(), steps=50)
    job = rig.raw("POST", "/v1/jobs", manifest).json["job"]
    for data in blobs.values():
        rig.raw.put(data)
    gone = rig.raw
    assert "step" in (kind for kind, _ in gone.follow(job))
    gone.connection.close()
    assert rig.raw.wait(job)["state"] == "done" and rig.completed(job) == 1
