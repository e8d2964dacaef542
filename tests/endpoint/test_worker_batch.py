"""Equal jobs are sampled together when they do not ask for exact bits."""

import itertools
import time

import pytest
import torch
from velocity_nodes.remote.endpoint.scheduling.batching import batch_key
from worker_stack import Stack, tiny_job

from demo.tiny_flux.codecs import encode_prompt

SEEDS = itertools.count(1000)  # never one twice: ComfyUI would have the result in its cache
PROMPTS = (
    "a large red circle at the left on a blue background",
    "a small green square at the top on a white background",
    "a large yellow ring at the center on a black background",
    "a small blue triangle at the right on a red background",
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack(tmp_path_factory.mktemp("endpoint"))
    yield stack.until_ready()
    stack.stop()


def prompted(number: int, **inputs) -> tuple[dict, list]:
    graph, cuts = tiny_job(seed=100 + number, steps=6, **inputs)
    tokens, pooled = encode_prompt(PROMPTS[number % 4])
    cuts[0] = [[[tokens, {"pooled_output": pooled, "guidance": 3.5}]]]
    return graph, cuts


def occupy(stack):
    """Fill the worker and its queue, so that what comes next waits together."""
    jobs = [stack.submit(stack.job(*tiny_job(seed=next(SEEDS), steps=40))) for _ in range(2)]
    stack.follow(jobs[0], until=("step",))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_a_batch_gives_each_job_its_own_picture(stack, sampler):
    alone = [stack.submit(stack.job(*prompted(number, sampler_name=sampler))) for number in range(4)]
    results = [stack.wait(job) for job in alone]
    assert {result["batched"] for result in results} == {1}
    occupy(stack)
    together = [stack.submit(stack.job(*prompted(i, sampler_name=sampler), exact=False)) for i in range(4)]
    results = [stack.wait(job) for job in together]
    assert {result["batched"] for result in results} == {4}
    for one, other in zip(alone, together, strict=True):
        a, b = stack.items(one)[0]["samples"], stack.items(other)[0]["samples"]
        assert a.shape == b.shape == (1, 16, 16, 16)
        assert torch.allclose(a, b, atol=1e-3), (a - b).abs().max()
    first, second = (stack.items(job)[0]["samples"] for job in together[:2])
    assert (first - second).abs().max() > 0.1


def test_cfg_and_a_different_negative(stack):
    graph, cuts = prompted(0, cfg=4.0)
    tokens, pooled = encode_prompt("a red circle")
    graph["sampler"]["inputs"]["negative"] = {"@cut": 2}
    cuts.append([[[tokens, {"pooled_output": pooled}]]])
    other_graph = {**graph, "sampler": {**graph["sampler"], "inputs": {**graph["sampler"]["inputs"], "seed": 7}}}
    alone = [stack.submit(stack.job(one, cuts)) for one in (graph, other_graph)]
    [stack.wait(job) for job in alone]
    occupy(stack)
    together = [stack.submit(stack.job(one, cuts, exact=False)) for one in (graph, other_graph)]
    assert [stack.wait(job)["batched"] for job in together] == [2, 2]
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(stack.items(one)[0]["samples"], stack.items(other)[0]["samples"], atol=1e-3)


def test_all_hear_the_steps_and_one_may_leave(stack):
    occupy(stack)
    jobs = [stack.submit(stack.job(*tiny_job(seed=i, steps=60), exact=False)) for i in range(3)]
    stack.follow(jobs[0], until=("step",))
    stack.cancel(jobs[1])
    ends = [stack.follow(job) for job in jobs]
    assert [events[-1][0] for events in ends] == ["done", "cancelled", "done"]
    assert sum(kind == "step" for kind, _ in ends[2]) == 60
    assert not list(stack.settings.results.glob(f"{jobs[1].id}*"))


def test_a_batch_that_fails_runs_again_one_by_one(stack):
    occupy(stack)
    good = [stack.job(*prompted(number), exact=False) for number in range(2)]
    graph, cuts = prompted(2)
    cuts[0][0][0][0] = torch.full((1, 12, 64), 3e38)  # its result will not be finite
    bad = stack.job(graph, cuts, exact=False)
    for job in (good[0], bad, good[1]):
        stack.submit(job)
    assert [stack.wait(job)["batched"] for job in good] == [1, 1]
    kind, error = stack.follow(bad)[-1]
    assert kind == "failed" and "not finite" in error["message"]


def test_eight_at_most_and_only_neighbours(stack):
    occupy(stack)
    jobs = [stack.submit(stack.job(*prompted(number), exact=False)) for number in range(9)]
    other = stack.submit(stack.job(*tiny_job(seed=1, steps=3), exact=False))
    last = stack.submit(stack.job(*prompted(9), exact=False))
    assert [stack.wait(job)["batched"] for job in jobs] == [8] * 8 + [1]
    assert stack.wait(other)["batched"] == 1
    assert stack.wait(last)["batched"] == 1


@pytest.mark.soak("it asserts a speed")
def test_a_batch_takes_less_time_than_one_after_the_other(stack):
    def seconds(exact: bool) -> float:
        occupy(stack)
        jobs = [stack.submit(stack.job(*tiny_job(seed=next(SEEDS), steps=20), exact=exact)) for i in range(8)]
        stack.follow(jobs[0], until=("running",))
        start = time.monotonic()
        for job in jobs:
            stack.wait(job)
        return time.monotonic() - start

    assert seconds(exact=False) < seconds(exact=True)


class TestKey:
    def key(self, change=lambda manifest: None, **inputs):
        graph, cuts = tiny_job(**inputs)
        tensor = {"@tensor": "0" * 64, "dtype": "float32", "shape": [1, 12, 64]}
        packed = [[tensor, {"pooled_output": {"@fill": 1.0, "dtype": "float32", "shape": [1, 64]}}]]
        latent = {"samples": {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 16, 16]}}
        manifest = {"graph": graph, "output": ["sampler", 0], "cuts": [[packed], [latent]], "exact": False}
        change(manifest)
        return batch_key(manifest)

    def test_seed_and_numbers_do_not_matter(self):
        def other_blob(manifest):
            manifest["cuts"][0][0][0][0]["@tensor"] = "1" * 64

        assert self.key(seed=1) == self.key(other_blob, seed=2) is not None

    def test_everything_else_does(self):
        def longer(manifest):
            manifest["cuts"][0][0][0][0]["shape"] = [1, 13, 64]

        def guided(manifest):
            manifest["cuts"][0][0][0][1]["guidance"] = 2.0

        keys = {self.key(), self.key(longer), self.key(guided), self.key(steps=5), self.key(model="b.safetensors")}
        assert len(keys) == 5 and None not in keys

    @pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "dpm_adaptive", "lcm", "no such"])
    def test_noise_on_the_way_runs_alone(self, sampler):
        assert self.key(sampler_name=sampler) is None

    def test_what_is_no_single_row_runs_alone(self):
        def exact(manifest):
            manifest["exact"] = True

        def two_items(manifest):
            manifest["cuts"][1] *= 2

        def batch(manifest):
            manifest["cuts"][1][0]["samples"]["shape"] = [2, 16, 16, 16]

        def masked(manifest):
            manifest["cuts"][1][0]["noise_mask"] = {"@fill": 1.0, "dtype": "float32", "shape": [1, 1, 16, 16]}

        def live_option(manifest):
            manifest["cuts"][0][0][0][1]["mask"] = {"@fill": 1.0, "dtype": "float32", "shape": [1, 16, 16]}

        def cached(manifest):
            manifest["graph"]["cache"] = {"class_type": "VelocityFirstBlockCache", "inputs": {}}

        def linked_name(manifest):
            manifest["graph"]["sampler"]["inputs"]["sampler_name"] = ["loader", 0]

        def latent_of_another_node(manifest):
            manifest["graph"]["other"] = {"class_type": "LatentUpscale", "inputs": {"samples": {"@cut": 1}}}

        def other_sampler(manifest):
            manifest["graph"]["sampler"]["class_type"] = "KSamplerAdvanced"

        for change in (
            exact,
            two_items,
            batch,
            masked,
            live_option,
            cached,
            linked_name,
            latent_of_another_node,
            other_sampler,
        ):
            assert self.key(change) is None, change.__name__
