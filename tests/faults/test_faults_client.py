"""The user interrupts, or the user's ComfyUI is killed; and the key stays where it belongs."""

import json
import urllib.request

import pytest
from fault_setup import ANNA, FORMER
from PIL import Image

from demo.graph import offloaded
from dev.client import PromptError
from dev.endpoint import KEY

LONG, VERY_LONG = 100, 1000  # steps, about 2 s and 20 s


def interrupt(rig, painting):
    """Interrupt the user's prompt and wait until it has ended."""
    rig.client.interrupt()
    with pytest.raises(PromptError) as caught:
        rig.client.wait(painting.prompt_id)
    assert caught.value.interrupted


def test_interrupted_while_it_runs(rig):
    known, ended = rig.jobs(), rig.completed_so_far()
    painting = rig.start(rig.graph(VERY_LONG))
    rig.until_step()
    interrupt(rig, painting)
    rig.until(rig.worker_is_idle, "the worker stops at its next step")
    assert rig.new_job(known).state == "cancelled"
    assert rig.completed_so_far() <= ended + 1 and rig.completed(rig.new_job(known).id) == 0


def test_interrupted_while_it_waits(rig):
    """The job in front of it is not touched."""
    before = rig.submit_raw(steps=LONG)
    rig.until_step()
    known = rig.jobs()
    painting = rig.start(rig.graph(VERY_LONG))
    rig.until(lambda: len(rig.jobs()) > len(known) and rig.new_job(known).state == "queued", "it waits")
    interrupt(rig, painting)
    rig.until(lambda: rig.new_job(known).state == "cancelled", "the job is cancelled")
    assert rig.raw.wait(before)["state"] == "done" and rig.completed(before) == 1
    assert rig.new_job(known).attempts == 0


def test_deadline_of_the_user(rig):
    known = rig.jobs()
    with pytest.raises(PromptError, match="not done after 1 s. Raise deadline_seconds"):
        rig.start(rig.graph(VERY_LONG), deadline_seconds=1.0, on_failure="raise").assert_right()
    rig.until(rig.worker_is_idle, "the worker stops at its next step")
    assert rig.new_job(known).state in ("cancelled", "failed")


def test_client_killed_and_restarted(rig):
    """The same prompt finds the job by its key, and its result is collected: the worker ran once."""
    known, graph = rig.jobs(), rig.graph(LONG)
    rig.start(graph)
    rig.until_step()
    rig.client.restart()
    painting = rig.start(graph)
    painting.assert_right()
    assert not painting.ran_here
    job = rig.new_job(known)
    assert rig.completed(job.id) == 1 and job.attempts == 1


def test_the_key_is_in_no_workflow_picture_log_or_file(rig):
    """Searched: everything that user and endpoint have on their disks, the prompts, the worker's environment."""
    graph = offloaded(rig.graph())
    workflow = json.dumps({"nodes": graph}).encode()
    request = urllib.request.Request(f"{rig.client.url}/userdata/workflows%2Foffload.json", workflow, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200
    result = rig.client.run(graph)
    with Image.open(result.images[0]) as picture:
        assert '"VelocityOffload"' in picture.text["prompt"], "the picture holds the graph"
        texts = [*picture.text.values(), json.dumps(rig.client.get("/history")), rig.client.log_text()]
    texts += [json.dumps(rig.client.object_info()), json.dumps(rig.worker().environ()), rig.endpoint.log_text()]
    keys = (KEY, ANNA, FORMER)
    assert not [key for key in keys for text in texts if key in text]
    folders = (rig.client.folder, rig.endpoint.folder)
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert {"offload.json", "server.log", "endpoint.log", "0.log", "journal.sqlite"} <= {file.name for file in files}
    with_key = {file.name for file in files if any(key.encode() in file.read_bytes() for key in keys)}
    assert with_key == {"endpoints.json", "keys.json"}, "the private settings of user and operator"
