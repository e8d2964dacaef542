"""The worker works for its endpoint alone, and the endpoint gives its jobs to its own worker alone."""

import asyncio
import os
import urllib.error
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from velocity_nodes.remote.endpoint.settings import Settings
from velocity_nodes.remote.endpoint.workers import worker as worker_file
from velocity_nodes.remote.endpoint.workers.worker import Worker, WorkerError
from velocity_nodes.remote.wire.worker_secret import HEADER, proof
from worker_stack import Stack, tiny_job


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"))
    yield stack.until_ready()
    stack.stop()


ROUTES = ["/", "/history", "/queue", "/object_info", "/system_stats", "/velocity/worker", "/view?filename=x"]


@pytest.mark.parametrize("given", [{}, {HEADER: ""}, {HEADER: "0" * 64}], ids=["none", "empty", "wrong"])
def test_nobody_else_is_answered(stack, given):
    url = stack.slot.worker.url
    for path in ROUTES:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(url + path, None, given), timeout=30)
    for path in ("/prompt", "/interrupt", "/free", "/velocity/cancel"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(url + path, b"{}", given), timeout=30)

    async def follow() -> None:
        async with aiohttp.ClientSession(headers=given) as session, session.ws_connect(f"{url}/ws?clientId=x"):
            pass

    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        asyncio.run(follow())
    assert stack.worker_client().get("/queue") == {"queue_running": [], "queue_pending": []}
    stack.wait(stack.submit(stack.job(*tiny_job(steps=2))))


def test_each_start_has_a_secret_of_its_own_and_no_log_has_it(stack, caplog):
    first = stack.slot.worker.secret
    stack.slot.worker.process.kill()
    stack.until(lambda: stack.slot.state == "ready" and stack.slot.worker.secret != first)
    for secret in (first, stack.slot.worker.secret):
        assert len(secret) == 64 and secret not in stack.slot.worker.tail() + caplog.text
    assert "the worker ended with code -9; it is started again. It ran nothing" in caplog.text


def test_another_process_at_the_workers_port_is_not_taken_for_it(tmp_path, monkeypatch):
    """It answers like a worker; it learns neither the secret nor a job."""
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path_qs, dict(request.headers), await request.text()))
        return web.Response(text=proof("guessed", request.query.get("nonce", "")))

    async def scene() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        monkeypatch.setattr(worker_file, "_free_port", lambda: port)
        settings = Settings(Path(os.environ["COMFYUI_PATH"]), "python3", tmp_path, comfyui_arguments=("--cpu",))
        worker = Worker(0, settings, None)
        try:
            with pytest.raises(WorkerError, match="another process answers"):
                await worker.start()
            assert seen and all(path.startswith("/velocity/hello?nonce=") for path, *_ in seen)
            assert worker.secret and worker.secret not in str(seen)
        finally:
            await worker.kill()
            await runner.cleanup()

    asyncio.run(scene())
