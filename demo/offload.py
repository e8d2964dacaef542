"""`python -m nox -s demo -- offload`: the same graphs painted here and on an endpoint, one of them with two samplers in
a row, which are one job, and one with the endpoint killed midway.

Client and endpoint are separate processes on this machine, as they would be on two. Writes `demo/out/offload.png`.
"""

import re
import threading
import time
from pathlib import Path

import torch

from demo.graph import offloaded, painting, with_second_pass
from demo.pictures import enlarged_row, load
from dev.endpoint import KEY, Endpoint
from dev.server import ComfyServer

OUT = Path(__file__).parent / "out"
PROMPT = "a large red circle at the left on a blue background"
LARGER = 192  # of the second pass: 96 pixels
STEPS_TO_KILL = 400  # long enough to be killed in the middle
DECISION = re.compile(r"Offload: (?:exact|close|unverified|running locally).*")


def paint(client: ComfyServer, graph: dict) -> tuple[torch.Tensor, float]:
    """Return the picture and ComfyUI's seconds, with nothing kept from the graph before."""
    client.free()
    result = client.run(graph, timeout=300)
    return load(result.images[0]), result.seconds


def kill_midway(endpoint: Endpoint) -> None:
    """Wait until a job runs, give it a second, and kill the endpoint without warning."""
    while not endpoint.get("/v1/health")["running"]:
        time.sleep(0.05)
    time.sleep(1.0)
    endpoint.kill()
    print("  killed the endpoint in the middle of the job", flush=True)


def main() -> None:
    """Run the demo and write its picture."""
    OUT.mkdir(exist_ok=True)
    start = time.monotonic()
    print("starting an endpoint (velocity serve) and a ComfyUI that uses it ...", flush=True)
    with Endpoint() as endpoint, ComfyServer() as client:
        endpoint.connect(client, patience_seconds=5)
        pictures, lines = [], []
        for name, graph in (
            ("on the endpoint", offloaded(painting(PROMPT, 2))),
            ("here", painting(PROMPT, 2)),
            ("two samplers there", offloaded(with_second_pass(painting(PROMPT, 9), 5, LARGER))),
            ("two samplers here", with_second_pass(painting(PROMPT, 9), 5, LARGER)),
        ):
            picture, seconds = paint(client, graph)
            pictures.append(picture)
            lines.append(f"{name:<24}{seconds:6.2f} s")
        jobs = endpoint.metric("velocity_accepted_total")
        killer = threading.Thread(target=kill_midway, args=(endpoint,))
        killer.start()
        for name, graph in (
            ("endpoint killed midway", offloaded(painting(PROMPT, 1, steps=STEPS_TO_KILL))),
            ("the same, all here", painting(PROMPT, 1, steps=STEPS_TO_KILL)),
        ):
            picture, seconds = paint(client, graph)
            pictures.append(picture)
            lines.append(f"{name:<24}{seconds:6.2f} s")
        killer.join()
        log = client.log_text()
    if KEY in log:
        raise RuntimeError("the key is in ComfyUI's log")
    same = [torch.equal(pictures[i], pictures[i + 1]) for i in range(0, len(pictures), 2)]
    print("\n".join([*lines, *DECISION.findall(log)]))
    print(f"jobs of the first two pictures on the endpoint: {jobs}")
    enlarged_row(pictures).save(OUT / "offload.png")
    print(f"each two pictures are the same: {same}; offload.png is in {OUT}")
    print(f"{time.monotonic() - start:.0f} s in all")
    if not all(same):
        raise SystemExit("a picture of the endpoint differs from the one made here")
    if jobs != 2:
        raise SystemExit("two samplers in a row were to be one job")


if __name__ == "__main__":
    main()
