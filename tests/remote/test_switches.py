"""Switches whose branch is known: only the branch that is chosen is sent."""

import pytest

from tests.remote.graphs import CLASSES, base, classes_of, cut, node, sent, switch


def switched(state: object) -> dict:
    """The usual switch for a turbo LoRA, which is on where `state` is true."""
    graph = base(model=["which", 0])
    graph["lora"] = node("LoraLoaderModelOnly", model=["ckpt", 0], lora_name="turbo", strength_model=1.0)
    graph["which"] = switch(["lora", 0], ["ckpt", 0], state)
    return graph


def logic(class_type: str, *values: object) -> dict:
    """A node of logic with its inputs' values."""
    names = {"InvertBooleanNode": ["boolean"], "ComfyNotNode": ["value"]}.get(class_type)
    names = names or [f"values.value{number}" for number in range(len(values))]
    return {"class_type": class_type, "inputs": dict(zip(names, values, strict=True))}


@pytest.mark.parametrize("on", [True, False])
def test_only_the_branch_that_is_chosen_is_sent(on: bool):
    found = cut(switched(on))
    assert classes_of(found) == ["CheckpointLoaderSimple", "KSampler", *["LoraLoaderModelOnly"] * on]
    primitive = switched(["state", 0])
    primitive["state"] = node("PrimitiveBoolean", value=on)
    assert cut(primitive).graph == found.graph
    assert cut(primitive).links == found.links, "nor is the primitive"


CASES = [
    ("InvertBooleanNode", (True,), False),
    ("ComfyNotNode", (False,), True),
    ("ComfyAndNode", (True, True, False), False),
    ("ComfyAndNode", (True, 1), True),
    ("ComfyOrNode", (False, 0, True), True),
    ("ComfyOrNode", (False, ""), False),
]


@pytest.mark.parametrize("class_type, values, on", [case for case in CASES if case[0] in CLASSES])
def test_cores_logic(class_type: str, values: tuple, on: bool):
    graph = switched(["logic", 0])
    graph["logic"] = logic(class_type, *values)
    assert ("LoraLoaderModelOnly" in classes_of(cut(graph))) is on
    graph["logic"] = logic(class_type, *[["last", 0] if value is values[-1] else value for value in values])
    graph["last"] = node("PrimitiveBoolean", value=bool(values[-1]))
    assert ("LoraLoaderModelOnly" in classes_of(cut(graph))) is on, "also of links"


def test_a_switch_behind_a_switch():
    graph = switched(["inner", 0])
    graph["inner"] = switch(["yes", 0], ["no", 0], False)
    graph["yes"], graph["no"] = node("PrimitiveBoolean", value=True), node("PrimitiveBoolean", value=False)
    assert "LoraLoaderModelOnly" not in classes_of(cut(graph))
    graph["ckpt 2"] = node("CheckpointLoaderSimple", ckpt_name="other.safetensors")
    graph["sampler"]["inputs"]["model"] = ["outer", 0]
    graph["outer"] = switch(["which", 0], ["ckpt 2", 0], True)
    found = cut(graph)
    assert sent(found, "CheckpointLoaderSimple") == {"ckpt_name": "sd.safetensors"}


def test_a_branch_that_is_a_value():
    graph = base(steps=["steps", 0])
    graph["steps"] = switch(4, 20, True)
    assert sent(cut(graph), "KSampler")["steps"] == 4


def test_the_nodes_of_the_other_branch_need_not_be_there():
    assert cut(switched(False), without=("LoraLoaderModelOnly", "ComfySwitchNode")).links


def test_an_unknown_state_sends_both_and_is_data():
    graph = switched(["text", 0])
    graph["text"] = node("StringContains", string="a fox", substring="fox", case_sensitive=True)
    found = cut(graph)
    assert classes_of(found) == ["CheckpointLoaderSimple", "ComfySwitchNode", "KSampler", "LoraLoaderModelOnly"]
    assert found.kinds[found.links.index(["text", 0])] == "BOOLEAN"


def test_a_chosen_branch_without_a_controlnet_is_data():
    graph = base(positive=["which", 0])
    graph["net"] = node("ControlNetLoader", control_net_name="canny.safetensors")
    graph["picture"] = node("LoadImage", image="pose.png")
    links = {"positive": ["pos", 0], "negative": ["neg", 0], "control_net": ["net", 0], "image": ["picture", 0]}
    graph["control"] = node("ControlNetApplyAdvanced", **links, strength=1.0, start_percent=0.0, end_percent=1.0)
    graph["which"] = switch(["control", 0], ["pos", 0], False)
    assert cut(graph).links == [["pos", 0], ["neg", 0], ["empty", 0]]
    graph["which"]["inputs"]["switch"] = True
    assert "ControlNetApplyAdvanced" in classes_of(cut(graph))


def test_inputs_of_a_list_that_grows_have_types():
    graph = base(latent_image=["encoded", 0])
    graph["picture"] = node("LoadImage", image="mine.png")
    graph["many"] = {"class_type": "BatchImagesNode", "inputs": {"images.image0": ["which", 0]}}
    graph["which"] = switch(["picture", 0], ["picture", 0], ["picture", 1])
    graph["vision"] = node("CLIPVisionEncode", clip_vision=["eyes", 0], image=["many", 0], crop="center")
    graph["eyes"] = node("CLIPVisionLoader", clip_name="v.safetensors")
    graph["net"] = node("ControlNetLoader", control_net_name="canny.safetensors")
    graph["control"] = node(
        "ControlNetApply", conditioning=["pos", 0], control_net=["net", 0], image=["many", 0], strength=1.0
    )
    graph["encoded"] = node("VAEEncode", pixels=["many", 0], vae=["ckpt", 2])
    graph["sampler"]["inputs"]["positive"] = ["control", 0]
    found = cut(graph)
    assert found.pixels == ["ControlNetApply.image"]
    assert found.links[0:2] == [["pos", 0], ["many", 0]]
