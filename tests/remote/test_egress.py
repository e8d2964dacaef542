"""The list of what left is complete, and its one sentence is true."""

import json

import comfy.nested_tensor
import pytest
import torch
from velocity_nodes.remote.client.egress import CAVEAT, KEPT, describe, new_file, statement, write
from velocity_nodes.remote.wire.blob import blob_name
from velocity_nodes.remote.wire.values import pack

EMBEDDING = torch.randn(1, 5, 8)
LATENT = {"samples": torch.randn(1, 16, 4, 4)}


def manifest(*cuts: tuple[str, object], sent: bool = True, **named: tuple) -> dict:
    blobs = {}

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    packed = [(kind, pack([value], add)) for kind, value in cuts]
    sizes = {name: len(data) for name, data in blobs.items()}
    found = describe(packed, sizes, set(blobs) if sent else set(), named)
    assert json.loads(json.dumps(found)) == found
    assert {tensor["sha256"] for tensor in found["tensors"]} - {None} == set(blobs), "every blob is listed"
    return found


def test_every_tensor_is_listed():
    conditioning = [[EMBEDDING, {"pooled_output": torch.randn(1, 8), "guidance": 3.5}]]
    found = manifest(("CONDITIONING", conditioning), ("LATENT", {"samples": torch.zeros(1, 16, 4, 4)}))
    rows = [(row["type"], row["path"], row["dtype"], row["shape"]) for row in found["tensors"]]
    assert rows == [
        ("CONDITIONING", "[0][0][0]", "float32", [1, 5, 8]),
        ("CONDITIONING", "[0][0][1].pooled_output", "float32", [1, 8]),
        ("LATENT", "[0].samples", "float32", [1, 16, 4, 4]),
    ]
    assert found["tensors"][0]["bytes"] > EMBEDDING.nbytes
    assert [row["sent"] for row in found["tensors"]] == [True, True, True]
    assert (found["tensors"][2]["bytes"], found["tensors"][2]["sha256"]) == (0, None)
    assert found["caveat"] == CAVEAT
    assert statement(found) == "no pixels, no prompt text, no sound"


def test_what_the_endpoint_had_already_was_not_sent_again():
    assert [row["sent"] for row in manifest(("LATENT", LATENT), sent=False)["tensors"]] == [False]


def test_pixels_text_and_sound_are_told_with_their_places():
    found = manifest(("IMAGE", torch.rand(1, 4, 4, 3)), pixels=("ControlNetApplyAdvanced.image",))
    assert statement(found) == "pixels (ControlNetApplyAdvanced.image), no prompt text, no sound"
    found = manifest(("STRING", "a red fox"), prompt_text=("CLIPTextEncode.text", "CLIPTextEncode.text"))
    assert statement(found) == "no pixels, prompt text (CLIPTextEncode.text, CLIPTextEncode.text), no sound"
    found = manifest(
        ("AUDIO", {"waveform": torch.rand(1, 2, 9), "sample_rate": 9}), sound=("LTXVReferenceAudio.audio",)
    )
    assert statement(found) == "no pixels, no prompt text, sound (LTXVReferenceAudio.audio)"


MASK = torch.eye(4)[None]


@pytest.mark.parametrize("kind", ["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"])
def test_tensors_in_the_place_of_numbers_are_pixels(kind):
    """Nobody knows what a node gives that does not give what it says."""
    assert statement(manifest((kind, MASK))) == f"pixels ({kind} [0]), no prompt text, no sound"
    assert statement(manifest((kind, 5))) == "no pixels, no prompt text, no sound"


@pytest.mark.parametrize(
    ("kind", "value", "place"),
    [
        ("LATENT", LATENT | {"noise_mask": MASK}, "LATENT [0].noise_mask"),
        ("CONDITIONING", [[EMBEDDING, {"mask": MASK}]], "CONDITIONING [0][0][1].mask"),
        ("CONDITIONING", [[EMBEDDING, {"concat_mask": MASK}]], "CONDITIONING [0][0][1].concat_mask"),
        ("CONDITIONING", [[EMBEDDING, {"face_video_pixels": MASK}]], "CONDITIONING [0][0][1].face_video_pixels"),
        ("LATENT", {"samples": torch.rand(1, 3, 64, 64)}, "LATENT [0].samples"),
    ],
)
def test_pixels_within_other_things_are_pixels(kind, value, place):
    assert statement(manifest((kind, value))) == f"pixels ({place}), no prompt text, no sound"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("LATENT", LATENT | {"noise_mask": torch.ones(1, 1, 32, 32)}),  # nothing is drawn in it
        ("CONDITIONING", [[EMBEDDING, {"attention_mask": MASK}]]),  # which tokens see which
        ("LATENT", {"samples": torch.zeros(1, 3, 64, 64)}),
        ("CONDITIONING", [[EMBEDDING, {"concat_latent_image": torch.rand(1, 4, 4, 4), "area": ("percentage", 1.0)}]]),
        ("LATENT", {"samples": comfy.nested_tensor.NestedTensor([torch.rand(1, 4, 2, 2), torch.rand(1, 8)])}),
        ("SIGMAS", torch.rand(9)),
    ],
)
def test_what_shows_nothing_is_no_pixels(kind, value):
    assert statement(manifest((kind, value))) == "no pixels, no prompt text, no sound"


def test_text_within_conditioning_is_text():
    found = manifest(("CONDITIONING", [[EMBEDDING, {"caption": "a red fox", "prompt_type": "negative"}]]))
    assert statement(found) == "no pixels, prompt text (CONDITIONING [0][0][1].caption), no sound"


def test_the_file(tmp_path):
    found = manifest(("LATENT", LATENT))
    file = new_file(tmp_path, "job-1")
    assert (file.parent, file.name[-11:]) == (tmp_path / "egress", "-job-1.json")
    assert write(file, {}) and write(file, found), "once before it is sent, once after"
    assert json.loads(file.read_text(encoding="utf-8")) == found
    assert [file] == list(file.parent.iterdir())


def test_the_oldest_files_go(tmp_path):
    folder = tmp_path / "egress"
    folder.mkdir()
    for number in range(KEPT + 10):
        (folder / f"20000101-{number:06}-old.json").write_text("{}")
    newest = new_file(tmp_path, "new")
    write(newest, {})
    kept = sorted(folder.iterdir())
    assert len(kept) == KEPT
    assert kept[-1] == newest
    assert kept[0].name == "20000101-000011-old.json"


def test_a_full_disk_does_not_cost_the_picture(tmp_path, caplog):
    (tmp_path / "egress").write_text("in the way")
    assert not write(new_file(tmp_path, "job"), {})
    assert "can't be written" in caplog.text
