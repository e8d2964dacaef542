"""Every answer of an endpoint has its types and bounds; what is wrong is one error that says where."""

import json

import pytest
from velocity_nodes.remote.client.answers import (
    Capabilities,
    Done,
    Health,
    Submitted,
    parse,
    parse_error,
    parse_event,
)
from velocity_nodes.remote.client.errors import EndpointError

HEALTH = {"status": "ok", "protocol": 1, "queued": 0, "running": 1, "workers": [{"state": "ready"}]}
CAPABILITIES = {"node_classes": ["KSampler"], "warm": ["a.safetensors"], "seconds_per_job": 1}
DONE = {"bytes": 1, "sha256": "0" * 64, "seconds": 0.5, "models": {"a": None}, "fingerprint": {"torch": "2.11"}}
DEEP = "[" * 100_000 + "]" * 100_000


def test_what_is_right_is_passed_on_and_what_is_unknown_is_not():
    assert parse(json.dumps({**HEALTH, "more": "x" * 1000}), Health) == {
        "queued": 0,
        "running": 1,
        "workers": [{"state": "ready"}],
    }
    assert parse(json.dumps(CAPABILITIES), Capabilities) == CAPABILITIES
    assert parse(json.dumps(DONE), Done) == DONE
    assert parse_event("step", '{"value": 3, "max": 28}') == {"value": 3, "max": 28}
    assert parse_event("preview", '{"jpeg": "x", "value": 3}') == {"jpeg": "x", "value": 3}
    assert parse_event("mood", '{"value": 3}') == {}


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Capabilities, {**CAPABILITIES, "warm": [["a"]]}),
        (Capabilities, {**CAPABILITIES, "warm": "abc"}),
        (Capabilities, {**CAPABILITIES, "node_classes": {"KSampler": 1}}),
        (Capabilities, {**CAPABILITIES, "node_classes": ["x" * 5000]}),
        (Capabilities, {**CAPABILITIES, "seconds_per_job": -1}),
        (Capabilities, {**CAPABILITIES, "seconds_per_job": True}),
        (Health, {**HEALTH, "workers": ["x"]}),
        (Health, {**HEALTH, "workers": None}),
        (Health, {**HEALTH, "queued": 1.5}),
        (Health, {**HEALTH, "queued": 10**20}),
        (Submitted, {"job": "../../etc", "state": "queued", "missing": []}),
        (Submitted, {"job": "j", "state": "queued", "missing": ["x"]}),
        (Submitted, {"job": "j\n", "state": "queued", "missing": []}),
        (Done, {**DONE, "seconds": -0.5}),
        (Done, {**DONE, "sha256": 'x"\r\n'}),
        (Done, {**DONE, "models": {"a": ["b"]}}),
        (Done, []),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_wrong_types_and_bounds(model, value):
    with pytest.raises(EndpointError) as caught:
        parse(json.dumps(value), model)
    assert caught.value.code == "bad_answer" and "`velocity serve`" in str(caught.value)


@pytest.mark.parametrize(
    "body", [DEEP, '{"queued": ' + DEEP + "}", "NaN", '{"seconds": NaN}', "1" * 100_000, b"\xff", ""]
)
def test_json_that_is_none_or_means_harm(body):
    with pytest.raises(EndpointError) as caught:
        parse(body, Done)
    assert caught.value.code == "bad_answer" and len(str(caught.value)) < 400


@pytest.mark.parametrize("number", ["9" * 4300, "-1", "1e400", "true", '"1"', "null"])
@pytest.mark.parametrize("kind, field", [("queued", "position"), ("step", "value")])
def test_numbers_of_events(kind, field, number):
    with pytest.raises(EndpointError):
        parse_event(kind, f'{{"{field}": {number}, "max": 5}}')


@pytest.mark.parametrize(("header", "seconds"), [("2", 2.0), ("-5", None), ("nan", None), ("inf", None), ("", None)])
def test_retry_after_is_a_time_to_come(header, seconds):
    assert parse_error(503, b'{"error": {"code": "unavailable", "message": "m"}}', header).retry_after == seconds


def test_errors_of_another_form_are_told_as_pages():
    for body in (
        b'{"error": {"code": ["x"], "message": "m"}}',
        DEEP.encode(),
        b'{"error": {"code": "x", "message": {}}}',
    ):
        assert "HTTP 500" in str(parse_error(500, body, ""))


def test_lists_end():
    names = [f"Node{n}" for n in range(110_000)]
    parse(json.dumps({**CAPABILITIES, "node_classes": names[:90_000]}), Capabilities)
    with pytest.raises(EndpointError):
        parse(json.dumps({**CAPABILITIES, "node_classes": names}), Capabilities)
