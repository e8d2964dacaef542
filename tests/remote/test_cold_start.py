"""An endpoint whose worker still starts is waited for as it announces, or not at all."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from velocity_nodes.remote.client import cold_start
from velocity_nodes.remote.client.cold_start import node_classes
from velocity_nodes.remote.client.errors import EndpointError
from velocity_nodes.remote.client.history import History
from velocity_nodes.remote.client.settings import Endpoint

from tests.remote.bad_endpoint import KEY, BadEndpoint, answers

ABLE = {"node_classes": ["KSampler"], "warm": [], "seconds_per_job": None}


def starting(seconds: float | None):
    body = {"status": "ok", "queued": 0, "running": 0, "workers": [{"state": "starting"}], "starting_seconds": seconds}
    return answers(200, body)


def ask(
    health: list, folder, wait: bool = True, earlier: float | None = None, name: str = "test"
) -> tuple[list[str], list[str]]:
    """Return the node classes and what was told. `earlier`: seconds since the endpoint was asked last."""
    if earlier is not None:
        history = History(folder)
        history.record_capabilities("test", {**ABLE, "node_classes": ["Earlier"]})
        history.data["capabilities"]["test"]["time"] = time.time() - earlier
        history.changes.clear()
        history.file.write_text(json.dumps(history.data), encoding="utf-8")
    told: list[str] = []

    async def play() -> list[str]:
        endpoint = BadEndpoint(faults={"health": health}, capabilities=ABLE)
        async with endpoint.running():
            asked = Endpoint(name, endpoint.url, KEY, patience_seconds=0.5)
            return await node_classes(asked, folder, lambda: wait, told.append)

    return asyncio.run(asyncio.wait_for(play(), 60)), told


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(cold_start, "LOOK_AGAIN_SECONDS", 0.01)


def test_it_is_waited_for_and_its_time_is_told(tmp_path):
    names, told = ask([starting(42.4), starting(12.0)], tmp_path)
    assert names == ["KSampler"]
    said = [line for line in told if "reconnecting" not in line]  # as on a machine that stands still
    assert said == [f"cold start: the endpoint's worker starts, about {seconds} s more" for seconds in (42, 12)]
    assert History(tmp_path).capabilities("test") == ABLE


def test_a_warm_one_is_asked_at_once(tmp_path):
    assert ask([], tmp_path, wait=False) == (["KSampler"], [])


def test_auto_does_not_wait_for_what_it_never_saw(tmp_path):
    with pytest.raises(EndpointError, match="starts, which takes 42 s more") as caught:
        ask([starting(42)], tmp_path, wait=False)
    assert caught.value.code == "cold"


@pytest.mark.parametrize("wait", [True, False])
def test_what_it_said_earlier_counts_meanwhile(wait, tmp_path):
    assert ask([starting(42)] * 9, tmp_path, wait, earlier=3600) == (["Earlier"], [])
    assert ask([], tmp_path, wait, earlier=3600) == (["KSampler"], [])


@pytest.mark.parametrize(("announced", "at_least", "at_most"), [(0.05, 0.3, 3600.0), (1e8, 0.1, 0.3)])
def test_a_start_that_never_ends(tmp_path, monkeypatch, announced, at_least, at_most):
    monkeypatch.setattr(cold_start, "AT_LEAST_SECONDS", at_least)
    monkeypatch.setattr(cold_start, "AT_MOST_SECONDS", at_most)
    with pytest.raises(EndpointError, match="has not started within .* Its log says why"):
        ask([starting(announced)] * 9999, tmp_path)


async def away(request: web.Request) -> web.StreamResponse:
    request.transport.abort()
    return web.Response()


def test_an_endpoint_that_goes_away_meanwhile(tmp_path):
    names, told = ask([starting(42), *[away] * 3], tmp_path)
    assert names == ["KSampler"] and "reconnecting" in told[1]
    with pytest.raises(EndpointError, match="does not answer"):
        ask([starting(42), *[away] * 999], tmp_path, name="other")
