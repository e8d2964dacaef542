"""First Block Cache on a tiny model of every architecture: exact where it must not skip, one block where it skips."""

import pytest
import torch
from velocity_nodes.acceleration.blocks.block_stack import UnsupportedModelError, architecture_of
from velocity_nodes.acceleration.caching.first_block_cache import FirstBlockCacheConfig, FirstBlockTechnique
from velocity_nodes.acceleration.caching.forecast import History
from velocity_nodes.acceleration.caching.technique import Call, Stream

from .test_architectures import TAIL, fingerprint, flat, tiny  # noqa: F401 (tiny is a fixture)
from .tiny_models import BUILDERS, UNET_BUILDERS, Draw, NotInThisComfyUI, TinyModel


class Host:
    """Stands where ComfyUI's `BaseModel.apply_model` calls the model, and counts which blocks really run."""

    def __init__(self, model: TinyModel, technique: FirstBlockTechnique) -> None:
        self.model = model
        self.class_obj = self
        self.technique = technique
        self.output = None

    @property
    def diffusion_model(self) -> torch.nn.Module:
        return self.model.diffusion_model

    def __call__(self, x, t, concat, context, control, options) -> torch.Tensor:
        self.output = flat(self.model.call(self.seed, transformer_options=options))
        return self.output

    def run(self, seed: int) -> list[torch.Tensor]:
        self.seed, self.output = seed, None
        options = {"uuids": ["one"], "cond_or_uncond": [0], "sigmas": torch.tensor([0.7])}
        return [self.technique.apply_model(self, torch.zeros(1, 4), None, None, None, None, options)]


class Sampling:
    def percent_to_sigma(self, percent: float) -> float:
        return 1.0 - percent


def host_of(model: TinyModel, **settings) -> Host:
    return Host(model, FirstBlockTechnique(FirstBlockCacheConfig(**settings), Sampling()))


def call_at(time: float) -> Call:
    history = History(1)
    for earlier in (0.95, 0.9):
        history.add(earlier, torch.full((1, 1, 4), earlier), [[1.0]])
    return Call(torch.zeros(1, 4), time, time, -0.1, 1.0, 0, 0, Stream(history))


def blocks_run(model: TinyModel, work) -> int:
    """How many blocks of the model ran during `work()`."""
    ran, hooks = [], []
    for stack in architecture_of(model.diffusion_model).stacks:
        blocks = model.diffusion_model.get_submodule(stack.attribute)
        for block in blocks.values() if hasattr(blocks, "values") else blocks:
            hooks.append(block.register_forward_pre_hook(lambda *_: ran.append(1)))
    try:
        work()
    finally:
        for hook in hooks:
            hook.remove()
    return len(ran)


def warmed_up(host: Host) -> None:
    for seed, time in ((1, 0.9), (2, 0.8)):
        host.technique.observe(call_at(time), lambda seed=seed: host.run(seed))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_step_that_is_not_skipped_is_exact(name, tiny) -> None:  # noqa: F811
    stock, before = flat(tiny.call(3)), fingerprint(tiny.diffusion_model)
    host = host_of(tiny, residual_diff_threshold=1e-30)
    warmed_up(host)
    attempt = host.technique.attempt(call_at(0.7), lambda: host.run(3))
    assert not attempt.skipped and attempt.metric > 0.0
    assert torch.equal(attempt.outputs[0], stock)
    assert fingerprint(tiny.diffusion_model) == before


@pytest.mark.parametrize("name", BUILDERS)
def test_a_skipped_step_runs_one_block(name, tiny) -> None:  # noqa: F811
    tiny.call(1)  # some models set attributes in their first call
    before = fingerprint(tiny.diffusion_model)
    host = host_of(tiny, residual_diff_threshold=1e30)
    warmed_up(host)
    attempts = []
    ran = blocks_run(tiny, lambda: attempts.append(host.technique.attempt(call_at(0.7), lambda: host.run(3))))
    assert attempts[0].skipped and attempts[0].outputs is None  # the engine answers with its forecast
    assert host.output is None and ran == 1
    assert fingerprint(tiny.diffusion_model) == before


@pytest.mark.parametrize("name", TAIL)
def test_the_tail_residual_answers_with_one_block(name, tiny) -> None:  # noqa: F811
    host = host_of(tiny, residual_diff_threshold=1e30, decision="change", predictor="tail residual")
    warmed_up(host)
    full = host.output
    attempts = []
    ran = blocks_run(tiny, lambda: attempts.append(host.technique.attempt(call_at(0.7), lambda: host.run(2))))
    assert attempts[0].skipped and ran == 1
    torch.testing.assert_close(attempts[0].outputs[0], full, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", UNET_BUILDERS)
def test_unets_skip_behind_their_first_block(name) -> None:
    try:
        model = UNET_BUILDERS[name]()
    except NotInThisComfyUI as error:
        pytest.skip(str(error))
    stock = flat(model.call(3))
    host = host_of(model, residual_diff_threshold=1e-30)
    warmed_up(host)
    attempt = host.technique.attempt(call_at(0.7), lambda: host.run(3))
    assert not attempt.skipped and torch.equal(attempt.outputs[0], stock)
    host = host_of(model, residual_diff_threshold=1e30)
    warmed_up(host)
    assert host.technique.attempt(call_at(0.7), lambda: host.run(3)).skipped and host.output is None


def test_a_model_that_fills_a_cache_on_its_way_is_probed_by_its_picture() -> None:
    """Qwen-Image 2.1 calls each block for text and picture in the first step, and for the picture alone later."""
    model = BUILDERS["Qwen-Image 2.1"]()
    draw_all, prompt = model.inputs, model.inputs(Draw(0))["context"]
    model.inputs = lambda draw: {**draw_all(draw), "context": prompt}
    stock = flat(model.call(3))
    model.diffusion_model.reset_prefix_cache(True)
    host = host_of(model, residual_diff_threshold=1e-30)
    assert blocks_run(model, lambda: warmed_up(host)) == 2 * 3 + 3
    attempt = host.technique.attempt(call_at(0.7), lambda: host.run(3))
    assert not attempt.skipped and 0.0 < attempt.metric < float("inf")
    torch.testing.assert_close(attempt.outputs[0], stock)
    model.diffusion_model.prefix_cache.clear()  # what is added to text is no forecast of the picture
    host.technique.limit = 1e30
    assert not host.technique.attempt(call_at(0.6), lambda: host.run(3)).skipped


def test_a_model_that_calls_other_methods_of_its_blocks_is_an_error_that_names_it(monkeypatch) -> None:
    """In the first whole forward; later ones may be answered by the cache of another pack, without a block."""
    model = BUILDERS["Wan"]()
    host = host_of(model, residual_diff_threshold=0.1)
    forward = type(model.diffusion_model).forward
    monkeypatch.setattr(type(model.diffusion_model), "forward", lambda self, x, *args, **kwargs: x)
    with pytest.raises(UnsupportedModelError, match="WanModel ran without calling its blocks.*Velocity Forecast"):
        host.technique.observe(call_at(0.9), lambda: host.run(1))
    monkeypatch.setattr(type(model.diffusion_model), "forward", forward)
    host.technique.observe(call_at(0.8), lambda: host.run(1))
    monkeypatch.setattr(type(model.diffusion_model), "forward", lambda self, x, *args, **kwargs: x)
    host.technique.observe(call_at(0.7), lambda: host.run(1))
