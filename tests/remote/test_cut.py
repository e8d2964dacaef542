"""Where graphs of real node classes are cut: what is sent, what runs here, and what is refused."""

import copy
import json

import pytest
from velocity_nodes.remote.client.cut import CannotOffloadError
from velocity_nodes.remote.client.errors import EndpointError

from demo.graph import offloaded, painting
from tests.remote.graphs import CLASSES, WIDGETS, base, classes_of, cut, node, sent, switch

MEASURED = ["measure", 0]  # a link whose value shows only when the graph runs
MEASURE = {"measure": node("StringContains", string="a fox", substring="fox", case_sensitive=True)}


def test_ksampler():
    found = cut(base())
    assert found.graph == {
        "1": {
            "class_type": "KSampler",
            "inputs": WIDGETS
            | {
                "model": ["2", 0],
                "positive": {"@cut": 0},
                "negative": {"@cut": 1},
                "latent_image": {"@cut": 2},
            },
        },
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    }
    assert found.output == ["1", 0]
    assert found.links == [["pos", 0], ["neg", 0], ["empty", 0]]
    assert found.kinds == ["CONDITIONING", "CONDITIONING", "LATENT"]
    assert found.names == {"1": "sampler", "2": "ckpt"}
    assert (found.prompt_text, found.pixels) == ([], [])
    assert "fox" not in json.dumps(vars(found))


def test_the_demo():
    graph = offloaded(painting("a red circle", 3, {"VelocityForecast": {"preset": "balanced"}}))
    found = cut(graph)
    assert classes_of(found) == ["KSampler", "UNETLoader", "VelocityForecast"]
    assert found.links == [["text", 0], ["empty", 0]], "positive and negative are one link, and cut once"
    assert sent(found, "KSampler")["positive"] == sent(found, "KSampler")["negative"] == {"@cut": 0}
    remote = cut(graph, remote_text=True)
    assert (remote.links, remote.prompt_text) == ([["empty", 0]], ["TinyFluxTextEncode.text"])


def test_ksampler_advanced():
    graph = base()
    names = ("model", "positive", "negative", "latent_image", "steps", "cfg", "sampler_name", "scheduler")
    inputs = {name: graph["sampler"]["inputs"][name] for name in names}
    noise = {"add_noise": "enable", "noise_seed": 5, "return_with_leftover_noise": "enable"}
    graph["sampler"] = node("KSamplerAdvanced", **inputs, **noise, start_at_step=0, end_at_step=12)
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSamplerAdvanced"]
    assert sent(found, "KSamplerAdvanced")["noise_seed"] == 5
    assert len(found.links) == 3


def test_sampler_custom():
    graph = base()
    graph["sigmas"] = node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=8, denoise=1.0)
    graph["which"] = node("KSamplerSelect", sampler_name="euler")
    graph["sampler"] = node(
        "SamplerCustom",
        model=["ckpt", 0],
        add_noise=True,
        noise_seed=3,
        cfg=4.0,
        positive=["pos", 0],
        negative=["neg", 0],
        sampler=["which", 0],
        sigmas=["sigmas", 0],
        latent_image=["empty", 0],
    )
    found = cut(graph, ["sampler", 1])
    assert classes_of(found) == ["BasicScheduler", "CheckpointLoaderSimple", "KSamplerSelect", "SamplerCustom"]
    assert found.output == ["1", 1]
    assert found.kinds == ["CONDITIONING", "CONDITIONING", "LATENT"]


def custom_advanced(guider: dict, scheduler: dict | None = None) -> dict:
    graph = base()
    graph["noise"] = node("RandomNoise", noise_seed=3)
    graph["guider"] = guider
    graph["sigmas"] = scheduler or node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=8, denoise=0.6)
    graph["which"] = node("KSamplerSelect", sampler_name="euler")
    links = {"noise": "noise", "guider": "guider", "sampler": "which", "sigmas": "sigmas", "latent_image": "empty"}
    graph["sampler"] = node("SamplerCustomAdvanced", **{name: [source, 0] for name, source in links.items()})
    return graph


BASIC_GUIDER = {"class_type": "BasicGuider", "inputs": {"model": ["ckpt", 0], "conditioning": ["pos", 0]}}


def test_sampler_custom_advanced_with_a_basic_guider():
    found = cut(custom_advanced(BASIC_GUIDER), ["sampler", 1])
    below = ["BasicGuider", "BasicScheduler", "CheckpointLoaderSimple", "KSamplerSelect", "RandomNoise"]
    assert classes_of(found) == [*below, "SamplerCustomAdvanced"]
    assert (found.links, found.output) == ([["pos", 0], ["empty", 0]], ["1", 1])


def test_sampler_custom_advanced_with_a_cfg_guider_and_split_sigmas():
    guider = node("CFGGuider", model=["ckpt", 0], positive=["pos", 0], negative=["neg", 0], cfg=5.0)
    graph = custom_advanced(guider, node("SplitSigmas", sigmas=["all sigmas", 0], step=3))
    graph["all sigmas"] = node("BasicScheduler", model=["ckpt", 0], scheduler="simple", steps=8, denoise=1.0)
    graph["sampler"]["inputs"]["sigmas"] = ["sigmas", 1]
    found = cut(graph)
    assert {"CFGGuider", "SplitSigmas", "BasicScheduler"} <= set(classes_of(found))
    assert [kind for kind in found.kinds if kind == "SIGMAS"] == []
    assert sent(found, "SamplerCustomAdvanced")["sigmas"][1] == 1


def test_sigmas_that_the_endpoint_cannot_make_are_sent():
    graph = custom_advanced(BASIC_GUIDER, node("AlignYourStepsScheduler", model_type="SD1", steps=8, denoise=1.0))
    found = cut(graph, without=("AlignYourStepsScheduler",))
    assert found.links[found.kinds.index("SIGMAS")] == ["sigmas", 0]
    graph["sigmas"] = node("SplitSigmas", sigmas=["own", 0], step=3)
    graph["own"] = node("AlignYourStepsScheduler", model_type="SD1", steps=8, denoise=1.0)
    found = cut(graph, without=("AlignYourStepsScheduler",))
    assert "SplitSigmas" in classes_of(found)
    assert found.links[found.kinds.index("SIGMAS")] == ["own", 0]


def test_loras_and_our_caches_are_sent():
    graph = base(model=["cache", 0])
    graph["lora"] = node(
        "LoraLoader", model=["ckpt", 0], clip=["ckpt", 1], lora_name="a", strength_model=1.0, strength_clip=1.0
    )
    graph["lora2"] = node("LoraLoaderModelOnly", model=["lora", 0], lora_name="b", strength_model=0.5)
    graph["cache"] = node("VelocityFirstBlockCache", model=["lora2", 0], preset="balanced")
    for name in ("pos", "neg"):
        graph[name]["inputs"]["clip"] = ["lora", 1]
    found = cut(graph)
    assert classes_of(found) == [
        "CheckpointLoaderSimple",
        "KSampler",
        "LoraLoaderModelOnly",
        "LoraLoaderModelOnly",
        "VelocityFirstBlockCache",
    ]
    assert found.graph["4"]["inputs"] == {"model": ["5", 0], "lora_name": "a", "strength_model": 1.0}
    assert found.kinds == ["CONDITIONING", "CONDITIONING", "LATENT"]


def controlled(**changes: object) -> dict:
    graph = base(positive=["control", 0], negative=["control", 1])
    graph["net"] = node("ControlNetLoader", control_net_name="canny.safetensors")
    graph["picture"] = node("LoadImage", image="pose.png")
    inputs = {"positive": ["pos", 0], "negative": ["neg", 0], "control_net": ["net", 0], "image": ["picture", 0]}
    numbers = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    graph["control"] = node("ControlNetApplyAdvanced", **inputs | numbers | changes)
    return graph


def test_conditioning_with_a_controlnet_goes_as_graph():
    found = cut(controlled())
    assert classes_of(found) == ["CheckpointLoaderSimple", "ControlNetApplyAdvanced", "ControlNetLoader", "KSampler"]
    assert found.links == [["pos", 0], ["neg", 0], ["picture", 0], ["empty", 0]]
    assert found.kinds == ["CONDITIONING", "CONDITIONING", "IMAGE", "LATENT"]
    assert (found.prompt_text, found.pixels) == ([], ["ControlNetApplyAdvanced.image"])
    control = next(name for name, user in found.names.items() if user == "control")
    assert sent(found, "KSampler")["positive"] == [control, 0]
    assert sent(found, "KSampler")["negative"] == [control, 1]


def test_what_changes_conditioning_behind_a_controlnet_goes_too():
    graph = controlled(vae=["ckpt", 2])
    graph["area"] = node("ConditioningSetArea", conditioning=["control", 0], width=8, height=8, x=0, y=0, strength=1.0)
    graph["plain"] = node("ConditioningSetArea", conditioning=["pos", 0], width=8, height=8, x=0, y=0, strength=1.0)
    graph["both"] = node("ConditioningCombine", conditioning_1=["area", 0], conditioning_2=["plain", 0])
    graph["sampler"]["inputs"].update(positive=["both", 0], negative=["neg", 0])
    found = cut(graph)
    assert {"ConditioningCombine", "ConditioningSetArea", "ControlNetApplyAdvanced"} <= set(classes_of(found))
    assert classes_of(found).count("ConditioningSetArea") == 1, "the branch without a ControlNet is data"
    assert ["plain", 0] in found.links


def test_a_controlnet_that_the_endpoint_lacks():
    with pytest.raises(EndpointError) as caught:
        cut(controlled(), without=("ControlNetApplyAdvanced",))
    for part in ("ControlNetApplyAdvanced", "(node control)", "--allow ControlNetApplyAdvanced", "route to local"):
        assert part in str(caught.value)


def test_gligen_and_hooks_on_conditioning_go_as_graph():
    graph = base(positive=["boxes", 0], negative=["hooked", 0])
    graph["gligen"] = node("GLIGENLoader", gligen_name="g.safetensors")
    box = {"text": "a hat", "width": 64, "height": 64, "x": 0, "y": 0}
    graph["boxes"] = node(
        "GLIGENTextBoxApply", conditioning_to=["pos", 0], clip=["ckpt", 1], gligen_textbox_model=["gligen", 0], **box
    )
    graph["hook"] = node("CreateHookLora", lora_name="a", strength_model=1.0, strength_clip=1.0)
    graph["hooked"] = node(
        "ConditioningSetProperties",
        cond_NEW=["neg", 0],
        hooks=["hook", 0],
        strength=1.0,
        set_cond_area="default",
    )
    found = cut(graph)
    assert {"GLIGENTextBoxApply", "GLIGENLoader", "CreateHookLora", "ConditioningSetProperties"} <= set(
        classes_of(found)
    )
    assert found.prompt_text == ["GLIGENTextBoxApply.text"], "its text has to be sent with the node"
    assert found.links == [["pos", 0], ["neg", 0], ["empty", 0]]


def test_linked_widgets():
    graph = base(seed=["seed", 0], cfg=["cfg", 0], steps=["sum", 0])
    graph["seed"] = node("PrimitiveInt", value=5)
    graph["cfg"] = node("PrimitiveFloat", value=5.0)
    graph["sum"] = node("PrimitiveInt", value=9)
    found = cut(graph)
    assert dict(zip(map(tuple, found.links), found.kinds, strict=True)) == {
        ("seed", 0): "INT",
        ("cfg", 0): "FLOAT",
        ("sum", 0): "INT",
        ("pos", 0): "CONDITIONING",
        ("neg", 0): "CONDITIONING",
        ("empty", 0): "LATENT",
    }
    assert found.prompt_text == []


def test_image_to_image_and_inpainting():
    graph = base(latent_image=["masked", 0], denoise=0.5)
    graph["picture"] = node("LoadImage", image="mine.png")
    graph["encoded"] = node("VAEEncode", pixels=["picture", 0], vae=["ckpt", 2])
    graph["masked"] = node("SetLatentNoiseMask", samples=["encoded", 0], mask=["picture", 1])
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler"]
    assert found.links[2] == ["masked", 0]
    assert (found.prompt_text, found.pixels) == ([], [])


def test_remote_text_encoding():
    found = cut(base(), remote_text=True)
    assert classes_of(found) == ["CLIPTextEncode", "CLIPTextEncode", "CheckpointLoaderSimple", "KSampler"]
    assert (found.links, found.kinds) == ([["empty", 0]], ["LATENT"])
    assert found.prompt_text == ["CLIPTextEncode.text", "CLIPTextEncode.text"]


def test_remote_text_from_a_primitive_is_still_prompt_text():
    graph = base()
    graph["text"] = node("PrimitiveStringMultiline", value="a red fox")
    graph["pos"]["inputs"]["text"] = ["text", 0]
    found = cut(graph, remote_text=True)
    assert found.links[0] == ["text", 0]
    assert found.prompt_text == ["CLIPTextEncode.text", "CLIPTextEncode.text"]
    assert cut(graph).prompt_text == []


def test_a_node_that_makes_conditioning_and_latent():
    graph = base(positive=["inpaint", 0], negative=["inpaint", 1], latent_image=["inpaint", 2])
    graph["picture"] = node("LoadImage", image="mine.png")
    links = {"positive": ["pos", 0], "negative": ["neg", 0], "vae": ["ckpt", 2], "pixels": ["picture", 0]}
    graph["inpaint"] = node("InpaintModelConditioning", **links, mask=["picture", 1], noise_mask=True)
    assert cut(graph).links == [["inpaint", 0], ["inpaint", 1], ["inpaint", 2]]
    found = cut(graph, remote_text=True)
    assert "InpaintModelConditioning" in classes_of(found)
    assert found.kinds == ["IMAGE", "MASK"], "made once, over there, and its latent is not made here too"
    assert found.pixels == ["InpaintModelConditioning.pixels", "InpaintModelConditioning.mask"]


def test_hooks_on_clip():
    graph = base()
    graph["hook"] = node("CreateHookLora", lora_name="a", strength_model=1.0, strength_clip=1.0)
    graph["clip"] = node("SetClipHooks", clip=["ckpt", 1], hooks=["hook", 0], apply_to_conds=True, schedule_clip=False)
    graph["skip"] = node("CLIPSetLastLayer", clip=["clip", 0], stop_at_clip_layer=-2)
    graph["pos"]["inputs"]["clip"] = ["skip", 0]
    with pytest.raises(CannotOffloadError, match=r"CLIPTextEncode \(node pos\) .* text_encoding to remote"):
        cut(graph)
    assert {"SetClipHooks", "CreateHookLora", "CLIPSetLastLayer"} <= set(classes_of(cut(graph, remote_text=True)))


@pytest.mark.parametrize("missing", ["KSampler", "CheckpointLoaderSimple"])
def test_a_node_that_the_endpoint_lacks(missing):
    """The same kind of error as for a model that it lacks, so that the picture is made here if the user wants that."""
    with pytest.raises(EndpointError, match=rf"does not run {missing} \(node .*--allow {missing}, bypass") as caught:
        cut(base(), without=(missing,))
    assert caught.value.code == "unsupported_node"
    cut(base(), without=("CLIPTextEncode", "EmptyLatentImage")), "what runs here need not be there"


@pytest.mark.parametrize("class_type", ["EmptyLatentImage", "LatentUpscale", "VAEEncode", "SetLatentNoiseMask"])
def test_offload_behind_no_sampler(class_type):
    graph = base()
    links = {"samples": ["sampler", 0], "pixels": ["picture", 0], "vae": ["ckpt", 2], "mask": ["picture", 1]}
    declared = CLASSES[class_type].INPUT_TYPES()["required"]
    graph["root"] = node(class_type, **{name: link for name, link in links.items() if name in declared})
    graph["picture"] = node("LoadImage", image="mine.png")
    with pytest.raises(CannotOffloadError, match=f"{class_type} is no sampler .* directly behind"):
        cut(graph, ["root", 0])


@pytest.mark.parametrize("class_type", ["VelocityOffload", "VelocityRemoteSampler"])
def test_offload_behind_an_offloading_node(class_type):
    graph = base()
    graph["offload"] = {"class_type": class_type, "inputs": {"samples": ["sampler", 0]}}
    with pytest.raises(CannotOffloadError, match="already comes from an offloading node"):
        cut(graph, ["offload", 0])
    graph["second"] = copy.deepcopy(graph["sampler"])
    graph["second"]["inputs"]["latent_image"] = ["offload", 0]
    assert cut(graph, ["second", 0]).links[2] == ["offload", 0], "a second sampler behind it is fine"


def test_wildcard_outputs_take_the_type_that_is_wanted():
    graph = base(model=["model", 0], latent_image=["latent", 0], positive=["text", 0], seed=["seed", 0]) | MEASURE
    graph["lora"] = node("LoraLoaderModelOnly", model=["ckpt", 0], lora_name="b", strength_model=0.5)
    graph["model"] = switch(["lora", 0], ["ckpt", 0], MEASURED)
    graph["latent"] = switch(["empty", 0], ["empty", 0], MEASURED)
    graph["text"] = switch(["pos", 0], ["neg", 0], MEASURED)
    graph["seed"] = switch(["one", 0], ["one", 0], MEASURED)
    graph["one"] = node("PrimitiveInt", value=1)
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "ComfySwitchNode", "KSampler", "LoraLoaderModelOnly"]
    kinds = dict(zip((link[0] for link in found.links), found.kinds, strict=True))
    assert kinds == {
        "seed": "INT",
        "text": "CONDITIONING",
        "neg": "CONDITIONING",
        "latent": "LATENT",
        "measure": "BOOLEAN",
    }


def test_a_controlnet_behind_wildcards_is_seen():
    graph = controlled(control_net=["which net", 0]) | MEASURE
    graph["which net"] = switch(["net", 0], ["net", 0], MEASURED)
    graph["which"] = switch(["control", 0], ["pos", 0], MEASURED)
    graph["sampler"]["inputs"]["positive"] = ["which", 0]
    found = cut(graph)
    assert classes_of(found).count("ComfySwitchNode") == 2
    assert "ControlNetLoader" in classes_of(found)


def test_numbers_in_a_text_widget_are_no_prompt():
    graph = custom_advanced(BASIC_GUIDER, node("ManualSigmas", sigmas="1.0, 0.5, 0"))
    assert cut(graph).prompt_text == []
    graph["sigmas"]["inputs"]["sigmas"] = "a red fox"
    assert cut(graph).prompt_text == ["ManualSigmas.sigmas"]
    graph = base()
    graph["pos"]["inputs"]["text"] = "2077"
    assert cut(graph, remote_text=True).prompt_text == ["CLIPTextEncode.text"] * 2, "in a text area they are"


def test_text_of_an_input_that_the_class_does_not_name_counts_as_prompt():
    graph = base(model=["switched", 0]) | MEASURE
    graph["switched"] = switch(["ckpt", 0], ["ckpt", 0], MEASURED)
    graph["switched"]["inputs"]["note.0"] = "a red fox"
    assert cut(graph).prompt_text == ["ComfySwitchNode.note.0"]


def renamed(graph: dict, name) -> dict:
    def value(item: object) -> object:
        return [name(item[0]), item[1]] if isinstance(item, list) else item

    return {
        name(key): {**node, "inputs": {k: value(v) for k, v in node["inputs"].items()}} for key, node in graph.items()
    }


@pytest.mark.parametrize("name", [lambda old: f"12:{old}", lambda old: f"x.0.0.{old[::-1]}"])
def test_ids_do_not_change_what_is_sent(name):
    graph = controlled()
    first, second = cut(graph), cut(renamed(graph, name), [name("sampler"), 0])
    assert (first.graph, first.output, first.kinds) == (second.graph, second.output, second.kinds)
    assert second.links == [[name(link[0]), link[1]] for link in first.links]
    shuffled = dict(reversed(graph.items()))
    assert cut(shuffled) == first


def test_values_that_look_like_links_are_not_followed():
    graph = base()
    graph["sampler"]["inputs"]["extra"] = ["two", "words"]
    graph["sampler"]["inputs"]["more"] = [1, 2]
    inputs = sent(cut(graph), "KSampler")
    assert (inputs["extra"], inputs["more"]) == (["two", "words"], [1, 2])


def test_conditioning_that_branches_and_joins_often_takes_no_time():
    graph = base(positive=["c39", 0])
    for number in range(40):
        link = [f"c{number - 1}", 0] if number else ["pos", 0]
        graph[f"c{number}"] = node("ConditioningCombine", conditioning_1=link, conditioning_2=link)
    assert cut(graph).links[0] == ["c39", 0]  # each way through it by itself would take years
