"""Jobs through a real ComfyUI worker on the CPU: what comes back, and what is told on the way."""

import base64
import json
import time

import pytest
import torch
from safetensors.torch import load_file
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.endpoint.workers import worker, worker_slot
from velocity_nodes.remote.wire.fingerprint import KERNELS
from worker_stack import Stack, tiny_job

from demo.graph import painting
from dev.server import DEMO_PACK, TINY_LORA, TINY_MODEL

RESULT_BYTES = 500_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"), limits=Limits(result_bytes=RESULT_BYTES))
    yield stack.until_ready()
    stack.stop()


def test_the_result_is_bit_identical_to_the_same_prompt_sent_straight_to_comfyui(stack):
    prompt = painting("a large red circle at the left on a blue background", seed=5, steps=6)
    del prompt["picture"], prompt["save"]
    prompt["latent"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "direct"}}
    stack.worker_client().submit(prompt)
    output = stack.settings.data.parent / "comfyui" / "output"
    stack.until(lambda: list(output.glob("direct*.latent")))
    time.sleep(0.2)
    direct = load_file(next(output.glob("direct*.latent")))["latent_tensor"]

    job = stack.submit(stack.job(*tiny_job(seed=5, steps=6)))
    result = stack.wait(job)
    items = stack.items(job)

    assert len(items) == 1 and torch.equal(items[0]["samples"], direct)
    assert result["steps"] == 6 and result["batched"] == 1
    assert result["bytes"] == (stack.settings.results / f"{job.id}.bin").stat().st_size
    stored = stack.call_now(lambda: stack.journal.get(job.id))
    assert (stored.state, stored.attempts, stored.result) == ("done", 1, result)


def test_events_come_in_order_with_every_step_and_a_picture(stack):
    job = stack.submit(stack.job(*tiny_job(seed=11, steps=5)))
    events = stack.follow(job)
    kinds = [kind for kind, _ in events if kind not in ("preview", "cold")]
    assert kinds == ["queued", "running", *["step"] * 5, "done"]
    assert [data for kind, data in events if kind == "step"] == [
        {"value": i, "max": 5, "node": "sampler"} for i in range(1, 6)
    ]
    pictures = [data for kind, data in events if kind == "preview"]
    assert pictures and all(base64.b64decode(data["jpeg"])[:2] == b"\xff\xd8" for data in pictures)
    assert 1 <= pictures[0]["value"] <= 5


def test_previews_are_left_out_when_the_job_does_not_want_them(stack):
    events = stack.follow(stack.submit(stack.job(*tiny_job(seed=12), preview=False)))
    assert "preview" not in {kind for kind, _ in events} and events[-1][0] == "done"


def test_a_model_is_cold_once_and_its_hash_is_known_later(stack):
    stack.wait(stack.submit(stack.job(*tiny_job(seed=13))))
    assert stack.call_now(stack.scheduler.capabilities)["warm"] == [TINY_MODEL]
    name = f"diffusion_models/{TINY_MODEL}"
    stack.until(lambda: stack.scheduler.endings.hashes.of([TINY_MODEL], stack.slot.about)[name])
    job = stack.submit(stack.job(*tiny_job(seed=14)))
    events = stack.follow(job)
    assert "cold" not in {kind for kind, _ in events}
    assert len(events[-1][1]["models"][name]) == 64


def test_the_sampler_is_not_run_again_for_the_same_inputs(stack):
    first, second = (stack.job(*tiny_job(seed=15, steps=8)) for _ in range(2))
    stack.wait(stack.submit(first))
    result = stack.wait(stack.submit(second))
    assert result["steps"] == 0, "ComfyUI's cache holds from job to job"
    assert torch.equal(stack.items(first)[0]["samples"], stack.items(second)[0]["samples"])


def test_lists_lora_and_masks(stack):
    graph, cuts = tiny_job(seed=16)
    lora = {"model": ["loader", 0], "lora_name": TINY_LORA, "strength_model": 1.0}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    latent = {"samples": torch.randn(1, 16, 16, 16), "noise_mask": torch.ones(1, 1, 16, 16)}
    latent["noise_mask"][..., :8] = 0
    cuts[1] = [latent, {"samples": torch.zeros(2, 16, 8, 8)}]  # a ComfyUI list of two items
    job = stack.submit(stack.job(graph, cuts))
    stack.wait(job)
    items = stack.items(job)
    assert [tuple(item["samples"].shape) for item in items] == [(1, 16, 16, 16), (2, 16, 8, 8)]
    assert torch.equal(items[0]["noise_mask"], latent["noise_mask"])
    assert torch.allclose(items[0]["samples"][..., :8], latent["samples"][..., :8], atol=1e-4)
    written = (stack.settings.results / f"{job.id}.bin").read_bytes()
    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    assert not set(header["blobs"]) & set(job.blobs), "blobs that the client has are not sent back"


def test_an_exception_in_a_node_fails_at_once_and_says_which(stack):
    graph, cuts = tiny_job(seed=17)
    cuts[1] = [{"samples": torch.zeros(1, 16, 16)}]  # a dimension is missing
    job = stack.submit(stack.job(graph, cuts))
    kind, error = stack.follow(job)[-1]
    assert kind == "failed" and error["code"] == "execution_error"
    assert error["message"].startswith("KSampler: ") and error["next"]
    assert stack.call_now(lambda: stack.journal.get(job.id)).attempts == 1


def test_what_comfyui_refuses_fails_with_its_reason(stack):
    job = stack.submit(stack.job(*tiny_job(sampler_name="no such sampler")))
    kind, error = stack.follow(job)[-1]
    assert (kind, error["code"]) == ("failed", "execution_error")
    assert "no such sampler" in error["message"] and "KSampler" in error["message"]


def test_a_refusal_of_comfyui_is_short_wherever_it_is_kept(stack):
    graph, cuts = tiny_job(seed=23)
    wrong = {**graph["sampler"]["inputs"], "sampler_name": "x" * 15_000, "scheduler": "y" * 15_000}
    for number in range(50):
        graph[f"sampler{number}"] = {"class_type": "KSampler", "inputs": wrong}
    graph["both"] = {"class_type": "LatentAdd", "inputs": {"samples1": ["sampler", 0], "samples2": ["sampler", 0]}}
    for number in range(50):
        inputs = {"samples1": ["both" if not number else f"both{number - 1}", 0], "samples2": [f"sampler{number}", 0]}
        graph[f"both{number}"] = {"class_type": "LatentAdd", "inputs": inputs}
    before = stack.slot.worker.log_path.stat().st_size
    job = stack.submit(stack.job(graph, cuts, output="both49"))
    kind, error = stack.follow(job)[-1]
    assert (kind, error["code"]) == ("failed", "execution_error") and "KSampler" in error["message"]
    assert len(json.dumps(error)) < 5_000
    assert stack.slot.worker.log_path.stat().st_size - before < 500_000


def test_a_result_beyond_the_operators_bound_is_a_failure_of_its_job(stack):
    graph, cuts = tiny_job(seed=24)
    cuts[1] = [{"samples": torch.randn(1, 16, 16, 16)}]
    graph["many"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": {"@cut": 1}, "amount": 64}}
    kind, error = stack.follow(stack.submit(stack.job(graph, cuts, output="many")))[-1]
    assert (kind, error["code"]) == ("failed", "execution_error")
    assert f"more than the {RESULT_BYTES} bytes" in error["message"] and "--max-result-bytes" in error["message"]
    assert not list(stack.settings.results.glob("*.part"))
    stack.wait(stack.submit(stack.job(*tiny_job(seed=25))))


def test_the_worker_forgets_what_has_ended(stack, monkeypatch):
    monkeypatch.setattr(worker_slot, "MAX_HISTORY", 10_000)
    client = stack.worker_client()
    for number in range(4):
        graph, cuts = tiny_job(seed=26 + number, steps=1)
        cuts[0][0][0][1]["note"] = "x" * 9_000
        stack.wait(stack.submit(stack.job(graph, cuts)))
    stack.until(lambda: not stack.slot._tasks)
    assert len(client.get("/history")) <= 2


def test_the_workers_log_begins_anew_when_it_is_long(stack, monkeypatch):
    log = stack.slot.worker.log_path
    before = log.read_bytes()
    monkeypatch.setattr(worker, "MAX_LOG", len(before) - 1)
    stack.until(lambda: log.stat().st_size < len(before))
    monkeypatch.undo()
    stack.wait(stack.submit(stack.job(*tiny_job(seed=30))))
    assert log.with_suffix(".old.log").read_bytes().startswith(before)
    assert b"Prompt executed" in log.read_bytes() and b"\0" not in log.read_bytes()


def test_unknown_nodes_and_models_are_found_before_the_worker_is_asked(stack):
    graph, cuts = tiny_job()
    graph["sampler"]["class_type"] = "SaveImage"
    error = stack.follow(stack.submit(stack.job(graph, cuts)))[-1][1]
    assert error["code"] == "unsupported_node" and error["classes"] == ["SaveImage"]
    error = stack.follow(stack.submit(stack.job(*tiny_job(model="other.safetensors"))))[-1][1]
    assert error["code"] == "missing_model" and error["models"] == ["other.safetensors"]


def test_a_result_that_is_not_finite_is_an_error_that_says_so(stack):
    graph, cuts = tiny_job(seed=18, cfg=3.0)
    cuts[0] = [[[torch.full((1, 12, 64), 3e38), {"pooled_output": torch.full((1, 64), 3e38)}]]]
    error = stack.follow(stack.submit(stack.job(graph, cuts)))[-1][1]
    assert error["code"] == "execution_error" and "not finite" in error["message"]


def test_a_blob_that_holds_nan_is_refused_by_the_worker(stack):
    graph, cuts = tiny_job(seed=19)
    job = stack.job(graph, cuts)
    from velocity_nodes.remote.wire.values import tensor_blob

    latent = torch.zeros(1, 16, 16, 16)
    latent[0, 0, 0, 0] = float("nan")
    packed = {"@tensor": stack.store(tensor_blob(latent)), "dtype": "float32", "shape": [1, 16, 16, 16]}
    job.manifest["cuts"][1] = [{"samples": packed}]
    error = stack.follow(stack.submit(job))[-1][1]
    assert "VelocityReceive" in error["message"] and "not finite" in error["message"]


def test_a_finished_result_of_a_killed_endpoint_is_done_without_running(stack):
    job = stack.submit(stack.job(*tiny_job(seed=20)))
    before = stack.wait(job)
    again = stack.job(*tiny_job(seed=21))
    (stack.settings.results / f"{job.id}.bin").rename(stack.settings.results / f"{again.id}.bin")
    events = stack.follow(stack.submit(again))
    assert [kind for kind, _ in events] == ["done"]
    assert events[0][1]["sha256"] == before["sha256"]


def test_nothing_but_results_is_left_behind(stack):
    stack.wait(stack.submit(stack.job(*tiny_job(seed=22))))
    stack.until(lambda: stack.scheduler.health()["running"] == 0)
    assert not list(stack.settings.results.glob("*.*.*")), "only <job id>.bin"


def test_capabilities(stack):
    found = stack.call_now(stack.scheduler.capabilities)
    classes = set(found["node_classes"])
    assert {"KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced", "UNETLoader", "BasicGuider"} <= classes
    assert {"VelocityFirstBlockCache", "VelocityForecast", "CLIPTextEncode", "ControlNetApplyAdvanced"} <= classes
    refused = {"SaveImage", "LoadImage", "LoadLatent", "SaveLatent", "TinyFluxTextEncode", "VelocityReturn"}
    refused |= {
        "VelocityOffload",
        "VelocityRemoteSampler",
        "VelocityReceive",
        "VelocitySaveQuantizedModel",
        "ModelSave",
    }
    refused |= {"VelocityOffloadDispatch", "VelocityOffloadLocal", "LoadTrainingDataset", "VelocitySpeedReport"}
    assert refused <= set(stack.slot.about["classes"]) and not refused & classes
    assert found["models"]["diffusion_models"] == {TINY_MODEL: (DEMO_PACK / TINY_MODEL).stat().st_size}
    assert set(found["fingerprint"]) == {"comfyui", "torch", "device", "attention", "dtypes", *KERNELS}
    assert found["protocol"] == 1 and found["limits"]["nodes"] == 200
