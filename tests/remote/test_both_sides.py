"""What a graph needs on this machine in any case, and what that means for what is sent."""

import pytest

from tests.remote.graphs import CLASSES, base, classes_of, cut, node


def vace(trimmed: bool) -> dict:
    """Wan VACE; `trimmed`, something here takes a number of the node that makes the conditioning."""
    graph = base(positive=["vace", 0], negative=["vace", 1], latent_image=["vace", 2])
    size = {"width": 832, "height": 480, "length": 81, "batch_size": 1, "strength": 1.0}
    graph["vace"] = node("WanVaceToVideo", positive=["pos", 0], negative=["neg", 0], vae=["ckpt", 2], **size)
    graph["off"] = {"class_type": "VelocityOffload", "inputs": {"samples": ["sampler", 0]}}
    trim = ["vace", 3] if trimmed else 1
    graph["trim"] = node("TrimVideoLatent", samples=["off", 0], trim_amount=trim)
    graph["save"] = node("SaveLatent", samples=["trim", 0], filename_prefix="a")
    return graph


@pytest.mark.parametrize("remote_text", [False, True])
def test_a_node_that_something_here_needs_is_not_sent_for_its_text(remote_text: bool):
    found = cut(vace(trimmed=True), remote_text=remote_text)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler"]
    assert found.links == [["vace", 0], ["vace", 1], ["vace", 2]]
    assert (found.prompt_text, found.stays, found.twice) == ([], [], [])


def test_guides_that_are_cropped_here():
    """LTX-Video's guides are cut off behind the sampler, by the conditioning that the sampler was given."""
    graph = base(positive=["guide", 0], negative=["guide", 1], latent_image=["guide", 2])
    both = {"positive": ["pos", 0], "negative": ["neg", 0], "vae": ["ckpt", 2], "latent": ["empty", 0]}
    graph["picture"] = node("LoadImage", image="mine.png")
    graph["guide"] = node("LTXVAddGuide", **both, image=["picture", 0], frame_idx=0, strength=1.0)
    graph["off"] = {"class_type": "VelocityOffload", "inputs": {"samples": ["sampler", 0]}}
    graph["crop"] = node("LTXVCropGuides", positive=["guide", 0], negative=["guide", 1], latent=["off", 0])
    graph["save"] = node("SaveLatent", samples=["crop", 2], filename_prefix="a")
    for remote_text in (False, True):
        found = cut(graph, remote_text=remote_text)
        assert found.links == [["guide", 0], ["guide", 1], ["guide", 2]]
        assert (found.prompt_text, found.pixels, found.stays) == ([], [], [])


def test_without_that_it_is():
    found = cut(vace(trimmed=False), remote_text=True)
    assert {"WanVaceToVideo", "CLIPTextEncode"} <= set(classes_of(found)) and found.links == []


def test_only_what_is_needed_here_stays():
    """Another sampler here takes the negative prompt, so that it is encoded here; the positive one is sent."""
    graph = base()
    graph["other"] = node("KSampler", **{**graph["sampler"]["inputs"], "positive": ["neg", 0]})
    graph["save"] = node("SaveLatent", samples=["other", 0], filename_prefix="a")
    found = cut(graph, remote_text=True)
    assert classes_of(found) == ["CLIPTextEncode", "CheckpointLoaderSimple", "KSampler"]
    assert found.links == [["neg", 0], ["empty", 0]] and found.prompt_text == ["CLIPTextEncode.text"]


def test_a_sampler_that_is_seen_here_runs_twice():
    graph = base()
    graph["save"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="a")
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler"]
    assert found.twice == [["sampler", 0]]
    assert found.stays == ["KSampler (node sampler) runs here, too, as SaveLatent (node save) takes its LATENT"]


def test_what_takes_the_model_and_gives_a_number_runs_twice():
    if "WanInfiniteTalkToVideo" not in CLASSES:
        pytest.skip("this ComfyUI has no such node")
    graph = base(model=["talk", 0], positive=["talk", 1], negative=["talk", 2], latent_image=["talk", 3])
    links = {"model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], "vae": ["ckpt", 2]}
    size = {"mode": "single_speaker", "width": 832, "height": 480, "length": 81, "motion_frame_count": 9}
    graph["talk"] = {"class_type": "WanInfiniteTalkToVideo", "inputs": {**links, **size}}
    graph["show"] = node("PreviewAny", source=["talk", 4])
    found = cut(graph)
    assert "WanInfiniteTalkToVideo" in classes_of(found) and found.twice == [["talk", 4]]
    assert found.stays == ["WanInfiniteTalkToVideo (node talk) runs here, too, as PreviewAny (node show) takes its INT"]


def test_text_with_hooks_that_is_needed_here_goes_all_the_same():
    graph = base(positive=["hooked", 0])
    graph["hook"] = node("CreateHookLora", lora_name="a", strength_model=1.0, strength_clip=1.0)
    links = {"hooks": ["hook", 0], "apply_to_conds": True, "schedule_clip": False}
    graph["clip"] = node("SetClipHooks", clip=["ckpt", 1], **links)
    graph["hooked"] = node("CLIPTextEncode", clip=["clip", 0], text="a cat")
    graph["show"] = node("PreviewAny", source=["hooked", 0])
    found = cut(graph, remote_text=True)
    assert "SetClipHooks" in classes_of(found) and found.twice == [["hooked", 0]]
