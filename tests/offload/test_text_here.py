"""Text that is encoded here while the diffusion model is elsewhere, by a real CLIP with random weights and a LoRA."""

from collections.abc import Iterator

import pytest
import torch
from branches import Branches, Link, jobs_done, run
from safetensors.torch import load_file, save_file

from dev.client import PromptError
from dev.endpoint import ONLY_THERE, Endpoint
from dev.server import TINY_LORA, TINY_MODEL, ComfyServer

CLIP = "random_clip_l.safetensors"
LAYER = "lora_te_text_model_encoder_layers_11_mlp_fc1"


@pytest.fixture(scope="module")
def with_clip(client: ComfyServer) -> Iterator[ComfyServer]:
    """The client with CLIP-L in the format of core's files, and with its LoRA's file changing that, too."""
    from comfy.sd1_clip import SDClipModel

    draw = torch.Generator().manual_seed(3)
    empty = SDClipModel(device="cpu", dtype=torch.float16).transformer.state_dict()
    weights = {name: torch.randn(value.shape, generator=draw).mul(0.03).half() for name, value in empty.items()}
    folder = client.folder / "models"
    (folder / "text_encoders").mkdir(exist_ok=True)
    save_file(weights, folder / "text_encoders" / CLIP)
    lora = folder / "loras" / TINY_LORA
    own = load_file(lora)
    sides = {"down": torch.randn(4, 768, generator=draw), "up": torch.randn(3072, 4, generator=draw)}
    both = {f"{LAYER}.lora_{side}.weight": value for side, value in sides.items()}
    save_file({**own, **both, f"{LAYER}.alpha": torch.tensor(4.0)}, lora)
    (folder / "diffusion_models" / ONLY_THERE).touch()
    yield client
    save_file(own, lora)


def graph(branches: Branches, model_name: str, clip_strength: float = 0.5) -> Link:
    """Add a LoRA for model and text encoder, a text through it, and a sampler."""
    model = branches.model()
    branches.graph[model[0]]["inputs"]["unet_name"] = model_name
    clip = branches.add("CLIPLoader", clip_name=CLIP, type="stable_diffusion", device="default")
    strengths = {"strength_model": 0.8, "strength_clip": clip_strength}
    lora = branches.add("LoraLoader", model=model, clip=clip, lora_name=TINY_LORA, **strengths)
    skip = branches.add("CLIPSetLastLayer", clip=[lora[0], 1], stop_at_clip_layer=-1)
    encoded = branches.add("CLIPTextEncode", clip=skip, text="a large red circle")
    text = branches.add("OffloadTestTiny", conditioning=encoded)
    return branches.ksampler(lora, text, text, branches.empty(), seed=31)


def painted(client: ComfyServer, remote: bool, *arguments: object) -> torch.Tensor:
    branches = Branches(remote=remote)
    branches.save("last", branches.offload(graph(branches, *arguments)))
    return run(client, branches)["last"]


def test_a_lora_on_the_text_encoder_needs_no_model_here(with_clip: ComfyServer, endpoint: Endpoint) -> None:
    """Here the model is an empty file, so loading it would be an error."""
    before = jobs_done(endpoint)
    remote = painted(with_clip, True, ONLY_THERE)
    assert jobs_done(endpoint) == before + 1
    assert torch.equal(remote, painted(with_clip, False, TINY_MODEL))
    assert not torch.equal(remote, painted(with_clip, True, ONLY_THERE, 0.0)), "the LoRA is on the text encoder"


def test_the_text_is_encoded_once_for_several_seeds(with_clip: ComfyServer) -> None:
    def encodings(seed: int) -> int:
        branches = Branches(remote=True)
        sampler = graph(branches, ONLY_THERE, 0.25)  # as no other test has it
        branches.graph[sampler[0]]["inputs"]["seed"] = seed
        branches.save("last", branches.offload(sampler))
        seen = len(with_clip.log_text())
        run(with_clip, branches)
        return with_clip.log_text()[seen:].count("velocity test: tiny conditioning")

    assert [encodings(seed) for seed in (41, 42, 43)] == [1, 0, 0]


@pytest.mark.parametrize(
    "content, problem", [(b"", "is an empty file"), (b"\x40" + bytes(40), "is cut off or no")], ids=["empty", "cut off"]
)
@pytest.mark.parametrize("route", ["remote", "auto", "local"])
def test_a_checkpoint_whose_text_encoder_is_needed_here(
    client: ComfyServer, content: bytes, problem: str, route: str
) -> None:
    """One error that names file, reason and remedy, in place of the loader's."""
    file = client.folder / "models" / "checkpoints" / "whole.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    branches = Branches(remote=True, route=route, on_failure="run locally")
    loader = branches.add("CheckpointLoaderSimple", ckpt_name=file.name)
    text = branches.add("CLIPTextEncode", clip=[loader[0], 1], text="a cat")
    sampled = branches.ksampler(loader, text, text, branches.empty(), seed=32)
    branches.save("last", branches.offload(sampled))
    words = rf"whole.safetensors \(CheckpointLoaderSimple, node 1\), which {problem}.*text_encoding remote"
    with pytest.raises(PromptError, match=words):
        run(client, branches)
