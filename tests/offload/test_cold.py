"""An endpoint that was just started: `remote` waits for its worker, `auto` does not, and Cancel works meanwhile."""

import threading
import time
import urllib.request

import pytest
from branches import GREEN
from watch import Watch

from demo.graph import offloaded, painting
from dev.endpoint import Endpoint
from dev.server import ComfyServer


@pytest.fixture
def cold(client: ComfyServer, endpoint: Endpoint):
    """The endpoint is being started again, and the client has never heard of it."""
    (client.folder / "user" / "__velocity" / "offload_history.json").unlink(missing_ok=True)
    endpoint.stop()
    starting = threading.Thread(target=endpoint.start)
    starting.start()
    while True:
        try:
            urllib.request.urlopen(endpoint.url + "/v1/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.05)
    yield
    starting.join()


def test_it_is_waited_for_or_not(client: ComfyServer, endpoint: Endpoint, cold: None) -> None:
    with Watch(client) as watch:
        client.wait(watch.submit(offloaded(painting(GREEN, 811, steps=2), route="auto")))
        assert "running locally: the endpoint's worker starts, which takes" in watch.until("text", "running").data
        watch.submit(offloaded(painting(GREEN, 812, steps=2), route="remote"))
        assert "cold start: the endpoint's worker starts, about" in watch.until("text", "cold start").data
        client.interrupt()
        watch.until("execution_interrupted", timeout=60)
        client.wait(watch.submit(offloaded(painting(GREEN, 813, steps=2), route="remote")))
        assert "done in" in watch.until("text", "done in").data
    assert endpoint.metric("velocity_accepted_total") == 1
