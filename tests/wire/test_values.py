"""What conditioning, latents and other plain data are made of travels unchanged, and nothing else travels at all."""

import json
import threading

import comfy.clip_vision
import comfy.nested_tensor
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from velocity_nodes.remote.wire.blob import BlobError, blob_name, check_blob
from velocity_nodes.remote.wire.values import MAX_DEPTH, UnshippableError, pack, unpack

NAME = "0" * 64


def sent(value):
    """Return the packed value as it looks on the other side, and the blobs."""
    blobs = {}

    def add(data: bytes) -> str:
        name = blob_name(data)
        check_blob(name, data)
        blobs[name] = data
        return name

    return json.loads(json.dumps(pack(value, add), allow_nan=False)), blobs


def round_trip(value):
    packed, blobs = sent(value)
    return unpack(packed, blobs.__getitem__)


def same(a, b) -> bool:
    """Equal in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        equal_bits = a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
        return a.dtype == b.dtype and a.shape == b.shape and equal_bits
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (comfy.nested_tensor.NestedTensor, comfy.clip_vision.Output)):
        return same(vars(a), vars(b))
    return a == b and str(a) == str(b)  # str: -0.0


def conditioning(tokens: int = 77, width: int = 64) -> list:
    generator = torch.Generator().manual_seed(tokens)
    embedding = torch.randn(1, tokens, width, generator=generator)
    extra = {"pooled_output": torch.randn(1, width, generator=generator), "guidance": 3.5, "area": (8, 8, 0, 0)}
    return [[embedding, extra]]


tensors = st.builds(
    lambda shape, seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(0, 1000),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | tensors,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=9).filter(lambda key: not key.startswith("@")), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(plain)
def test_any_plain_value_comes_back(value):
    assert same(round_trip(value), value)


def test_what_comfyui_puts_in_links_comes_back():
    nested = comfy.nested_tensor.NestedTensor([torch.randn(1, 4, 2, 3), torch.zeros(1, 8)])
    output = comfy.clip_vision.Output()
    output.last_hidden_state, output.image_embeds = torch.randn(1, 5, 8), torch.randn(1, 8)
    output.penultimate_hidden_states, output.mm_projected = torch.randn(1, 5, 8), None
    output.image_sizes = [(3, 224, 224)]
    output.all_hidden_states = torch.randn(1, 2, 5, 8)  # of SigLIP alone
    for value in (
        [conditioning()],
        [{"samples": torch.zeros(1, 16, 8, 8), "noise_mask": torch.rand(1, 1, 8, 8), "batch_index": [0]}],
        [{"samples": nested, "type": "audio"}],
        [[[torch.randn(1, 3, 4), {"clip_vision_output": output, "hooks": None}]]],
        [{"waveform": torch.randn(1, 2, 100), "sample_rate": 44100}],
    ):
        assert same(round_trip(value), value)


def test_what_a_vision_encoder_says_of_its_picture_is_a_size():
    output = comfy.clip_vision.Output()
    output.image_sizes = [torch.zeros(3, 8, 8).shape]
    assert round_trip([output])[0].image_sizes == [(3, 8, 8)]


def test_what_of_a_vision_encoder_is_not_known_is_not_lost_in_silence():
    output = comfy.clip_vision.Output()
    output.newer = torch.zeros(1)
    with pytest.raises(UnshippableError, match="newer"):
        sent([output])


PICTURE = torch.rand(1, 6, 4, 3, generator=torch.Generator().manual_seed(5))
LAYOUTS = {
    "own": PICTURE,
    "channels first": PICTURE.movedim(-1, 1).contiguous().movedim(1, -1),
    "channels last": PICTURE.movedim(-1, 1),
    "one channel repeated": PICTURE[..., :1].contiguous().expand(-1, -1, -1, 3),
    "repeated batch": PICTURE.expand(4, -1, -1, -1),
    "turned": PICTURE.transpose(1, 2),
    "one colour, turned": torch.zeros(1, 4, 6, 3).transpose(1, 2),
    "one colour, repeated": torch.zeros(1, 1, 1, 1).expand(1, 6, 4, 3),
    "tokens turned, with an end of zeros": torch.cat([PICTURE[0, :, :, 0], torch.zeros(6, 2)], 1)[None].transpose(1, 2),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_tensor_lies_in_memory_as_before(name: str):
    """Kernels go by it: the same picture laid out in another way is convolved to other last bits."""
    tensor = LAYOUTS[name]
    back = round_trip([tensor])[0]
    assert same(back, tensor)
    assert back.stride() == tensor.stride()


def test_what_is_repeated_travels_once():
    assert bytes_on_the_wire([PICTURE.expand(64, -1, -1, -1)]) < bytes_on_the_wire([PICTURE]) + 100


def test_a_copy_arrives():
    tensor = torch.arange(6.0) / 7
    back = round_trip([tensor])[0]
    back += 1
    assert tensor[0] == 0


def bytes_on_the_wire(value) -> int:
    packed, blobs = sent(value)
    return len(json.dumps(packed, separators=(",", ":"))) + sum(map(len, blobs.values()))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (torch.float32, (1, 512, 4096)),
        (torch.bfloat16, (1, 512, 4096)),
        (torch.float16, (2, 77, 2048)),
        (torch.float32, (1, 1280)),
        (torch.float64, (3,)),
        (torch.float32, (1, 0, 8)),
    ],
)
def test_a_conditioning_tensor_costs_at_most_200_bytes_more(dtype, shape):
    tensor = torch.randn(shape, dtype=torch.float64).to(dtype)
    assert bytes_on_the_wire(tensor) <= tensor.numel() * tensor.itemsize + 200


def test_a_video_latent_costs_at_most_224_bytes_more():
    tensor = torch.randn(1, 16, 21, 60, 104)
    assert bytes_on_the_wire(tensor) <= tensor.numel() * tensor.itemsize + 224


def test_an_empty_latent_costs_less_than_100_bytes():
    assert bytes_on_the_wire({"samples": torch.zeros(1, 16, 128, 128)}) < 100


def test_equal_tensors_are_one_blob():
    embedding = torch.randn(1, 9, 8)
    packed, blobs = sent([embedding, embedding.clone(), {"again": embedding.double()}])
    assert len(blobs) == 1
    assert packed[0] == packed[1]


class Weights(torch.nn.Module):
    pass


class Sub(torch.Tensor):
    pass


deep = []
for _ in range(MAX_DEPTH + 1):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([[torch.ones(1), {"control": Weights()}]], "[0][1]['control']"),
        ({"hooks": threading.Lock()}, "['hooks']"),
        ([print], "[0]"),
        ([b"bytes"], "[0]"),
        ([{1, 2}], "[0]"),
        ([1 + 2j], "[0]"),
        ([torch.float32], "[0]"),
        ([torch.ones(2).as_subclass(Sub)], "[0]"),
        ([float("nan")], "[0]"),
        ((1, -float("inf")), "[1]"),
        ([torch.tensor([1.0, float("nan")])], "[0]"),
        ([torch.tensor([float("inf")], dtype=torch.bfloat16)], "[0]"),
        ([torch.tensor([float("nan")]).to(torch.float8_e4m3fn)], "[0]"),
        ([torch.tensor([float("inf")]).to(torch.float8_e5m2)], "[0]"),
        ([torch.tensor([float("nan")], dtype=torch.float64)], "[0]"),
        ([torch.eye(3).to_sparse()], "[0]"),
        ([torch.ones(2, dtype=torch.complex64)], "[0]"),
        ([torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)], "[0]"),
        ([torch.empty(3, device="meta")], "[0]"),
        ([comfy.nested_tensor.NestedTensor([torch.ones(2), "no tensor"])], "[0].tensors[1]"),
        ({1: 2}, ""),
        ({"@tensor": NAME}, ""),
        ({"a": {"@": 1}}, "['a']"),
        (deep, "[0]" * (MAX_DEPTH + 1)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_travel_is_named_with_its_place(value, path):
    with pytest.raises(UnshippableError) as caught:
        sent(value)
    assert caught.value.path == path
    assert (path or "the top") in str(caught.value)


def test_large_finite_doubles_travel():
    tensor = torch.tensor([1e300, 2.0], dtype=torch.float64)
    assert same(round_trip(tensor), tensor)


def test_as_deep_as_allowed():
    assert round_trip(deep[0]) == deep[0]
    turned = ()
    for _ in range(MAX_DEPTH):
        turned = (turned,)
    assert round_trip(turned) == turned


@pytest.mark.parametrize(
    "packed",
    [
        {"@tensor": NAME, "dtype": "float32", "shape": [1]},  # no such blob
        {"@tensor": "../../etc/passwd", "dtype": "float32", "shape": [1]},
        {"@tensor": NAME.upper().replace("0", "A"), "dtype": "float32", "shape": [1]},
        {"@tensor": 5, "dtype": "float32", "shape": [1]},
        {"@tensor": NAME, "dtype": "object", "shape": [1]},
        {"@tensor": NAME, "dtype": ["float32"], "shape": [1]},
        {"@tensor": NAME, "dtype": "float32"},
        {"@fill": 0, "dtype": "float32", "shape": [-1]},
        {"@fill": 0, "dtype": "float32", "shape": [1.0]},
        {"@fill": 0, "dtype": "float32", "shape": "1"},
        {"@fill": 0, "dtype": "float32", "shape": [1] * 9},
        {"@fill": 0, "dtype": "float32", "shape": [1 << 48]},
        {"@fill": float("nan"), "dtype": "float32", "shape": [1]},
        {"@pickle": "gASVBQ=="},
        {"@tuple": {"a": 1}},
        {"@tuple": "ab"},
        {"@nested": [1, 2]},
        {"@nested": {"@tensor": NAME}},
        {"@clip_vision": {"__class__": 1}},
        {"@clip_vision": [1]},
        {"@fill": 0, "dtype": "float32", "shape": [2, 3], "order": [0, 0]},
        {"@fill": 0, "dtype": "float32", "shape": [2, 3], "order": [1]},
        {"@fill": 0, "dtype": "float32", "shape": [2, 3], "order": 1},
        {"@fill": 0, "dtype": "float32", "shape": [2, 3], "repeated": [2]},
        {"@fill": 0, "dtype": "float32", "shape": [2, 3], "repeated": [True]},
        {"@": 1},
        [float("inf")],
    ],
    ids=lambda packed: str(packed)[:60],
)
def test_what_pack_does_not_write_is_refused(packed):
    with pytest.raises(BlobError):
        unpack(packed, {}.__getitem__)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}, lambda inner: {"@tuple": [inner]}])
def test_bottomless_nesting_is_refused(wrap):
    packed = None
    for _ in range(5000):
        packed = wrap(packed)
    with pytest.raises(BlobError, match="nested more than"):
        unpack(packed, {}.__getitem__)


def test_many_tensors_are_limited_together():
    fill = {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 8, 8]}  # 4096 bytes
    assert len(unpack([fill] * 4, {}.__getitem__, max_bytes=4 * 4096)) == 4
    with pytest.raises(BlobError, match="more bytes than are allowed"):
        unpack([fill] * 5, {}.__getitem__, max_bytes=4 * 4096)
