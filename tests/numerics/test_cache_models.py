"""Step caches on models of another kind than Flux, with random weights: audio and video at once, and a UNet."""

from collections.abc import Callable

import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor

from .sampling import full_passes, last_record
from .techniques import FIRST_BLOCK_TAIL, Technique, both_nodes, each
from .tiny_models import LTX_AV, UNET, Draw, _randomize

CPU = torch.device("cpu")


def build(kind: type, config: dict) -> ModelPatcher:
    """Return a small model of one of core's kinds, with seeded weights."""
    model_config = kind({**config, "dtype": torch.float32})
    model_config.set_inference_dtype(torch.float32, None)
    model_config.custom_operations = comfy.ops.disable_weight_init
    model = model_config.get_model({}, "", CPU)
    with torch.no_grad():
        _randomize(model.diffusion_model)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


@pytest.fixture(scope="module")
def audio_video() -> Callable:
    """Sample a tiny LTX-2 with its nested latents: (video, audio) and the number of full passes."""
    model, draw = build(comfy.supported_models.LTXAV, {"image_model": "ltxav", **LTX_AV}), Draw(0)
    conds = [[draw(1, 5, 32), {}]], [[draw(1, 5, 32), {}]]
    latent = NestedTensor((torch.zeros(1, 4, 2, 4, 4), torch.zeros(1, 8, 3, 16)))

    def run(apply: Callable = lambda model: model, cfg: float = 1.0) -> tuple[list[torch.Tensor], int]:
        noise = comfy.sample.prepare_noise(latent, 3)
        with full_passes(model, "transformer_blocks.2") as seen:
            out = comfy.sample.sample(
                apply(model), noise, 28, cfg, "euler", "simple", *conds, latent, seed=3, disable_pbar=True
            )
        return list(out.unbind()), len(seen)

    return run


@both_nodes
@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_audio_and_video_at_once(audio_video: Callable, technique: Technique, cfg: float) -> None:
    reference, passes = audio_video(cfg=cfg)
    result, fewer = audio_video(technique.apply, cfg=cfg)
    assert passes == 28 and fewer < 28
    for stream, expected in zip(result, reference, strict=True):
        assert stream.shape == expected.shape
        assert (stream - expected).norm() < 0.03 * expected.norm()


@each
def test_zero_is_exact_for_audio_and_video(audio_video: Callable, technique: Technique) -> None:
    (reference, _), (result, _) = audio_video(), audio_video(technique.never)
    assert all(torch.equal(stream, expected) for stream, expected in zip(result, reference, strict=True))


@pytest.fixture(scope="module")
def unet() -> Callable:
    """Sample a tiny Stable Diffusion 1.5, which predicts noise: the latent and the record, None without a node."""
    config = {**UNET, "adm_in_channels": None, "use_temporal_attention": False}
    model, draw = build(comfy.supported_models.SD15, config), Draw(0)
    conds = [[draw(1, 5, 16), {}]], [[draw(1, 5, 16), {}]]
    latent = torch.zeros(1, 4, 8, 8)

    def run(apply: Callable | None = None) -> tuple[torch.Tensor, int]:
        noise = comfy.sample.prepare_noise(latent, 3)
        patched = apply(model) if apply else model
        with full_passes(model, "out") as seen:
            out = comfy.sample.sample(
                patched, noise, 20, 2.0, "euler", "karras", *conds, latent, seed=3, disable_pbar=True
            )
        if apply:
            assert last_record(patched).full == len(seen)
        return out, len(seen)

    return run


@both_nodes
def test_a_unet(unet: Callable, technique: Technique) -> None:
    (reference, passes), (result, fewer) = unet(), unet(technique.apply)
    assert passes == 20 and fewer < 20
    assert (result - reference).norm() < 0.03 * reference.norm()
    assert torch.equal(unet(technique.never)[0], reference)


def test_the_tail_of_a_unet_is_refused(unet: Callable) -> None:
    with pytest.raises(ValueError, match="tail residual.*choose the predictor 'output forecast'"):
        unet(FIRST_BLOCK_TAIL.apply)
