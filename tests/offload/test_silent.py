"""An endpoint that takes connections and never answers: the picture is made here, and Cancel is felt at once."""

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from branches import GREEN
from watch import Watch

from demo.graph import offloaded, painting
from dev.server import ComfyServer


@pytest.fixture
def silent(client: ComfyServer) -> Iterator[str]:
    """The name of such an endpoint in the client's settings."""
    server, taken = socket.create_server(("127.0.0.1", 0)), []

    def take() -> None:
        while True:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    settings = client.folder / "user" / "__velocity" / "endpoints.json"
    before = settings.read_text(encoding="utf-8")
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    known = {**json.loads(before), "silent": {"url": url, "key": "k" * 16}}
    settings.write_text(json.dumps(known), encoding="utf-8")
    yield "silent"
    settings.write_text(before, encoding="utf-8")
    server.close()
    for connection in taken:
        connection.close()


def test_the_picture_is_made_here(client: ComfyServer, silent: str) -> None:
    with Watch(client) as watch:
        client.wait(watch.submit(offloaded(painting(GREEN, 801, steps=2), endpoint=silent, route="remote")))
        said = watch.until("text", "running locally").data
    assert "did not answer within 10 s" in said


def test_cancel_is_felt_while_it_is_asked(client: ComfyServer, silent: str) -> None:
    with Watch(client) as watch:
        watch.submit(offloaded(painting(GREEN, 802, steps=2), endpoint=silent, route="remote"))
        watch.until("executing", "offload")
        time.sleep(1)
        client.interrupt()
        pressed = time.monotonic()
        watch.until("execution_interrupted", timeout=60)
    assert time.monotonic() - pressed < 5, "it took 39 s; a second is meant, on a machine that is not busy"
