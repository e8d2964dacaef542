"""Samplers that follow one another, and other nodes that need the diffusion model to make data."""

import copy

import pytest

from tests.remote.graphs import CLASSES, WIDGETS, base, classes_of, cut, node, sent


def sampler(**links: list) -> dict:
    links = {"model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], **links}
    return node("KSampler", **WIDGETS, **links)


def chain(*between: str) -> dict:
    """Two samplers, and between them nodes with one input `samples`."""
    graph = base(latent_image=["first", 0])
    graph["first"] = sampler(latent_image=["empty", 0])
    for number, class_type in enumerate(between):
        own = copy.deepcopy(graph["sampler"]["inputs"]["latent_image"])
        graph[f"between {number}"] = {"class_type": class_type, "inputs": {"samples": own}}
        graph["sampler"]["inputs"]["latent_image"] = [f"between {number}", 0]
    return graph


def test_a_chain_is_one_job():
    found = cut(chain())
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler", "KSampler"]
    assert found.links == [["pos", 0], ["neg", 0], ["empty", 0]], "the latent between them never travels"
    assert [found.names[name] for name in found.samplers] == ["first", "sampler"]
    assert found.stays == []


def test_without_a_chain_the_sampler_before_runs_here():
    found = cut(chain(), chain=False)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler"]
    assert found.links == [["pos", 0], ["neg", 0], ["first", 0]]
    assert found.stays == [], "as it was asked for"


def test_two_experts():
    graph = base()
    widgets = {name: WIDGETS[name] for name in ("steps", "cfg", "sampler_name", "scheduler")} | {"noise_seed": 5}
    links = {"positive": ["pos", 0], "negative": ["neg", 0]}
    for name, model, latent, noise in (("high", "m1", "empty", "enable"), ("sampler", "m2", "high", "disable")):
        graph[name] = node(
            "KSamplerAdvanced",
            model=[model, 0],
            latent_image=[latent, 0],
            add_noise=noise,
            start_at_step=0 if name == "high" else 10,
            end_at_step=10 if name == "high" else 20,
            return_with_leftover_noise=noise,
            **widgets,
            **links,
        )
    graph["m1"] = node("UNETLoader", unet_name="high.safetensors", weight_dtype="default")
    graph["m2"] = node("UNETLoader", unet_name="low.safetensors", weight_dtype="default")
    found = cut(graph)
    assert classes_of(found) == ["KSamplerAdvanced", "KSamplerAdvanced", "UNETLoader", "UNETLoader"]
    assert [found.names[name] for name in found.samplers] == ["high", "sampler"]


def test_a_second_pass_in_latents():
    graph = chain("LatentUpscaleBy")
    graph["between 0"]["inputs"] |= {"upscale_method": "nearest-exact", "scale_by": 1.5}
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler", "KSampler", "LatentUpscaleBy"]


def test_a_second_pass_in_pixels():
    graph = chain()
    graph["decoded"] = node("VAEDecode", samples=["first", 0], vae=["vae", 0])
    graph["larger"] = node(
        "ImageScale", image=["decoded", 0], upscale_method="lanczos", width=1024, height=1024, crop="disabled"
    )
    graph["encoded"] = node("VAEEncode", pixels=["larger", 0], vae=["vae", 0])
    graph["vae"] = node("VAELoader", vae_name="v.safetensors")
    graph["sampler"]["inputs"]["latent_image"] = ["encoded", 0]
    found = cut(graph)
    below = ["CheckpointLoaderSimple", "ImageScale", "KSampler", "KSampler", "VAEDecode", "VAEEncode", "VAELoader"]
    assert classes_of(found) == below
    assert (found.links, found.pixels) == ([["pos", 0], ["neg", 0], ["empty", 0]], [])
    found = cut(graph, without=("ImageScale",))
    assert found.links[2] == ["encoded", 0], "as a whole or not at all: half of the way would be pixels"
    assert found.pixels == []
    assert found.stays == ["KSampler (node first) runs here, as the endpoint does not run ImageScale (node larger)"]


@pytest.mark.parametrize("missing", ["LatentUpscaleBy", "HypernetworkLoader"])
def test_what_the_endpoint_lacks_keeps_the_sampler_before(missing: str):
    graph = chain("LatentUpscaleBy")
    graph["between 0"]["inputs"] |= {"upscale_method": "nearest-exact", "scale_by": 1.5}
    graph["patch"] = node("HypernetworkLoader", model=["ckpt", 0], hypernetwork_name="h.pt", strength=1.0)
    graph["first"]["inputs"]["model"] = ["patch", 0]
    found = cut(graph, without=(missing,))
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler"]
    assert len(found.stays) == 1 and missing in found.stays[0] and "node first" in found.stays[0]


def test_of_three_samplers_the_last_two_go_where_the_first_can_not():
    graph = base(latent_image=["second", 0])
    graph["second"] = sampler(latent_image=["flipped", 0])
    graph["flipped"] = node("LatentFlip", samples=["first", 0], flip_method="x-axis: vertically")
    graph["first"] = sampler(latent_image=["empty", 0])
    found = cut(graph, without=("LatentFlip",))
    assert [found.names[name] for name in found.samplers] == ["second", "sampler"]
    assert ["flipped", 0] in found.links


def test_a_picture_that_a_text_encoder_looks_at_keeps_the_sampler_here():
    graph = chain()
    graph["decoded"] = node("VAEDecode", samples=["first", 0], vae=["ckpt", 2])
    graph["seen"] = node("TextEncodeQwenImageEditPlus", clip=["ckpt", 1], prompt="a hat", image1=["decoded", 0])
    graph["sampler"]["inputs"].update(positive=["seen", 0], latent_image=["empty", 0])
    found = cut(graph)
    assert ["seen", 0] in found.links and found.prompt_text == []
    said = "KSampler (node first) runs here, as TextEncodeQwenImageEditPlus (node seen) encodes text, which stays here"
    assert found.stays == [said]
    found = cut(graph, remote_text=True)
    assert "TextEncodeQwenImageEditPlus" in classes_of(found)
    assert [found.names[name] for name in found.samplers] == ["first", "sampler"]


@pytest.mark.parametrize("class_type", ["VelocityOffload", "VelocityRemoteSampler"])
def test_a_sampler_with_an_offload_of_its_own_is_another_job(class_type: str):
    graph = chain("VelocityOffload")
    graph["between 0"]["class_type"] = class_type
    found = cut(graph)
    assert ["between 0", 0] in found.links and found.stays == []
    assert len(found.samplers) == 1


def test_branches_that_join_again_and_again_are_looked_at_once():
    graph = base()
    graph["first"] = sampler(latent_image=["empty", 0])
    pair = [["first", 0], ["first", 0]]
    for number in range(60):
        graph[f"sum {number}"] = node("LatentAdd", samples1=pair[0], samples2=pair[1])
        pair = [[f"sum {number}", 0]] * 2
    graph["sampler"]["inputs"]["latent_image"] = pair[0]
    assert len(cut(graph).samplers) == 2
    assert len(cut(graph, without=("LatentAdd",)).stays) == 1


TAKES_MODEL = {
    "SeedVR2Conditioning": {"model": ["ckpt", 0], "vae_conditioning": ["empty", 0]},
    "WanInfiniteTalkToVideo": {
        "mode": "single_speaker", "model": ["ckpt", 0], "model_patch": ["patch", 0], "positive": ["pos", 0],
        "negative": ["neg", 0], "vae": ["ckpt", 2], "width": 832, "height": 480, "length": 81,
        "audio_encoder_output_1": ["heard", 0], "motion_frame_count": 9, "audio_scale": 1.0,
    },
    "LTXVReferenceAudio": {
        "model": ["ckpt", 0], "positive": ["pos", 0], "negative": ["neg", 0], "reference_audio": ["sound", 0],
        "audio_vae": ["ckpt", 2], "identity_guidance_scale": 3.0, "start_percent": 0.0, "end_percent": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("class_type", [name for name in TAKES_MODEL if name in CLASSES])
def test_what_takes_the_model_is_below_with_all_its_outputs(class_type: str):
    kinds = list(CLASSES[class_type].RETURN_TYPES)
    conditioning = [["taker", number] for number, kind in enumerate(kinds) if kind == "CONDITIONING"]
    graph = base(positive=conditioning[0], negative=conditioning[1])
    graph["taker"] = {"class_type": class_type, "inputs": TAKES_MODEL[class_type]}
    graph["patch"] = node("ModelPatchLoader", name="talk.safetensors")
    graph["sound"] = node("LoadAudio", audio="mine.wav")
    graph["heard"] = node("AudioEncoderEncode", audio_encoder=["ear", 0], audio=["sound", 0])
    graph["ear"] = node("AudioEncoderLoader", audio_encoder_name="e.safetensors")
    for output, name in (("MODEL", "model"), ("LATENT", "latent_image")):
        if output in kinds:
            graph["sampler"]["inputs"][name] = ["taker", kinds.index(output)]
    found = cut(graph)
    assert class_type in classes_of(found)
    assert not [link for link in found.links if link[0] == "taker"], "it would load the model here, too"
    assert found.prompt_text == []
    heard = {"WanInfiniteTalkToVideo": "audio_encoder_output_1", "LTXVReferenceAudio": "reference_audio"}
    name = heard.get(class_type)
    assert found.sound == ([f"{class_type}.{name}"] if name else []), "what leaves is named"


def test_a_node_that_makes_conditioning_and_latent_goes_whole():
    if "MiniMaxH3ImageToVideo" not in CLASSES:
        pytest.skip("this ComfyUI has no such node; InpaintModelConditioning, in test_cut.py, is another")
    graph = base(positive=["made", 0], negative=["made", 0], latent_image=["made", 1])
    widgets = {"prompt": "a cat", "width": 256, "height": 256, "length": 22, "batch_size": 1}
    graph["made"] = {"class_type": "MiniMaxH3ImageToVideo", "inputs": {"clip": ["ckpt", 1], "vae": ["v", 0], **widgets}}
    graph["v"] = node("VAELoader", vae_name="v.safetensors")
    assert cut(graph).links == [["made", 0], ["made", 1]]
    found = cut(graph, remote_text=True)
    assert found.links == [] and "MiniMaxH3ImageToVideo" in classes_of(found)


def test_the_lora_of_a_text_encoder_stays_here():
    graph = base(model=["lora", 0])
    both = {"lora_name": "a", "strength_model": 0.7, "strength_clip": 0.5}
    graph["lora"] = node("LoraLoader", model=["ckpt", 0], clip=["clip", 0], **both)
    graph["clip"] = node("CLIPLoader", clip_name="t.safetensors", type="wan", device="default")
    graph["pos"]["inputs"]["clip"] = ["lora", 1]
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler", "LoraLoaderModelOnly"]
    assert sent(found, "LoraLoaderModelOnly") == {"model": ["3", 0], "lora_name": "a", "strength_model": 0.7}
    assert found.links[0] == ["pos", 0], "text with a LoRA is no reason to send it"
    remote = cut(graph, remote_text=True)
    assert sent(remote, "LoraLoader").keys() == graph["lora"]["inputs"].keys()
    assert classes_of(remote).count("LoraLoader") == 1
    old = cut(graph, without=("LoraLoaderModelOnly",))
    assert {"LoraLoader", "CLIPLoader"} <= set(classes_of(old))


def test_a_loop_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    """As ComfyUI 0.36 brings them; a stand-in, as this one has none."""

    class LoopIteration:
        RETURN_TYPES = ("INT", "LATENT")

        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {"loop": ("LOOP",)}}

    monkeypatch.setitem(CLASSES, "LoopIteration", LoopIteration)
    graph = base(seed=["iteration", 0])
    graph["iteration"] = {"class_type": "LoopIteration", "inputs": {"loop": 3}}
    with pytest.raises(Exception, match=r"depends on LoopIteration \(node iteration\).*route to local"):
        cut(graph)
