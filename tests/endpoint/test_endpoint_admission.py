"""What an endpoint lets in, and that every refusal has the right code."""

import json
import time

import pytest
from served_app import CAPABILITIES, manifest, sampler_inputs
from velocity_nodes.remote.endpoint.admission import packed
from velocity_nodes.remote.endpoint.admission.admission import admit, check_nodes_and_models
from velocity_nodes.remote.endpoint.admission.manifest import parse_json
from velocity_nodes.remote.endpoint.admission.refusal import Refusal
from velocity_nodes.remote.endpoint.settings import Limits
from velocity_nodes.remote.wire import lossless, values

NAME, OTHER = "0" * 64, "1" * 64
LIMITS = Limits()
FILL = {"@fill": 0.0, "dtype": "float32", "shape": [1, 16, 64, 64]}
TENSOR = {"@tensor": NAME, "dtype": "bfloat16", "shape": [1, 512, 4096], "rows": 60}


def refused(job, limits: Limits = LIMITS, capabilities: dict | None = CAPABILITIES) -> str:
    with pytest.raises(Refusal) as caught:
        admit(job, limits, capabilities)
    json.dumps(caught.value.error()).encode()  # what a message quotes can be sent
    return caught.value.code


def nested(depth: int, leaf=1):
    value = leaf
    for _ in range(depth):
        value = [value]
    return value


def test_conditioning_and_latents_are_admitted_and_their_blobs_named():
    conditioning = [[TENSOR, {"pooled_output": {**TENSOR, "@tensor": OTHER, "shape": [1, 512, 1]}, "strength": 1.0}]]
    latent = {"samples": FILL, "batch_index": [0, 1], "area": {"@tuple": [64, 64, 0, 0]}, "none": None}
    more = [{"@nested": [FILL, TENSOR]}, {"@clip_vision": {"image_embeds": FILL, "image_sizes": [{"@tuple": [3, 4]}]}}]
    inputs = sampler_inputs(positive={"@cut": 0}, latent_image={"@cut": 1}, sizes=[1, 2, 3], more={"a": [True, None]})
    job = manifest(graph=inputs, cuts=[[conditioning], [latent, latent], more])
    assert admit(job, LIMITS, CAPABILITIES) == [NAME, OTHER]
    assert admit(manifest(), LIMITS, None) == []


def test_tables_that_had_to_be_written_without_torch_agree_with_the_wire():
    names = {dtype: name for dtype, name in lossless.SAFETENSORS_NAMES.items()}
    assert packed.DTYPES == {str(dtype).removeprefix("torch."): name for dtype, name in names.items()}
    smaller = {names[dtype]: tuple(names[less] for less in options) for dtype, options in lossless.SMALLER.items()}
    assert packed.SMALLER == smaller
    assert packed.CLIP_VISION_FIELDS == values.CLIP_VISION_FIELDS
    assert packed.MAX_DEPTH == values.MAX_DEPTH


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": True},
        {"protocol": "1"},
        {"key": "short"},
        {"key": "key with spaces in it"},
        {"key": "x" * 65},
        {"key": "sixteen-or-more-\n"},
        {"graph": {}},
        {"graph": []},
        {"graph": {"a b": {"class_type": "KSampler", "inputs": {}}}},
        {"graph": {"5": {"class_type": "KSampler"}}},
        {"graph": {"5": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "mine"}}}},
        {"graph": {"5": {"class_type": 7, "inputs": {}}}},
        {"output": ["6", 0]},
        {"output": ["5"]},
        {"output": ["5", 0, 0]},
        {"output": [5, 0]},
        {"output": ["5", -1]},
        {"output": ["5", True]},
        {"output": [["5"], 0]},
        {"output": "50"},
        {"cuts": [1]},
        {"cuts": {}},
        {"exact": 1},
        {"preview": "yes"},
        {"deadline_seconds": -1},
        {"deadline_seconds": "7"},
        {"deadline_seconds": float("inf")},
        {"more": 1},
    ],
)
def test_another_form_is_a_bad_request(changes):
    assert refused(manifest(**changes)) == "bad_request"


@pytest.mark.parametrize("missing", sorted(manifest()))
def test_every_field_is_needed(missing):
    assert refused({name: value for name, value in manifest().items() if name != missing}) == "bad_request"


@pytest.mark.parametrize("job", [None, 1, "x", [], [manifest()], {}])
def test_what_is_no_object_is_a_bad_request(job):
    assert refused(job) == "bad_request"


def test_another_version_has_its_own_code():
    assert refused({**manifest(), "protocol": 2, "new": 1}) == "protocol"


@pytest.mark.parametrize(
    "value",
    [
        ["nowhere", 0],
        ["1", -1],
        ["1", 64],
        ["1", 0.0],
        ["1", True],
        ["5", 0],  # itself
        {"@cut": 1},
        {"@cut": -1},
        {"@cut": True},
        {"@cut": "0"},
        {"@cut": 0, "more": 1},
        {"__value__": {"@cut": 0}},
        [{"@tensor": NAME}],
        {"@tensor": NAME, "dtype": "float32", "shape": [1]},
        nested(20),
        "half of a pair \ud800",
        "a\0b",
    ],
)
def test_inputs_that_stand_for_nothing_are_bad_requests(value):
    assert refused(manifest(graph=sampler_inputs(positive=value), cuts=[[1]])) == "bad_request"


def test_cycles_of_any_length_are_found_and_long_chains_pass():
    chain = {str(n): {"class_type": "KSampler", "inputs": {"model": [str(n + 1), 0]}} for n in range(199)}
    chain["199"] = {"class_type": "UNETLoader", "inputs": {}}
    job = manifest(graph=chain, output=["0", 0])
    assert admit(job, LIMITS, CAPABILITIES) == []
    chain["199"]["inputs"]["model"] = ["0", 0]
    assert refused(job) == "bad_request"


@pytest.mark.parametrize(
    "value",
    [
        {"@tensor": NAME},
        {**TENSOR, "more": 1},
        {**TENSOR, "@fill": 0.0},
        {**TENSOR, "@tensor": "A" * 64},
        {**TENSOR, "@tensor": None},
        {**TENSOR, "dtype": "complex64"},
        {**TENSOR, "dtype": ["float32"]},
        {**TENSOR, "shape": [1, -5, 4096]},
        {**TENSOR, "shape": [1, 1.0, 4096]},
        {**TENSOR, "shape": "abc"},
        {**TENSOR, "shape": [1] * 9},
        {**TENSOR, "shape": [1 << 60]},
        {**TENSOR, "rows": 513},
        {**TENSOR, "rows": -1},
        {**TENSOR, "rows": None},
        {**TENSOR, "rows": True},
        {**TENSOR, "shape": [512, 4096]},
        {**TENSOR, "order": [0, 1]},
        {**TENSOR, "order": [0, 1, 1]},
        {**TENSOR, "order": [0, 1, 2.0]},
        {**TENSOR, "order": "012"},
        {**TENSOR, "order": None},
        {**TENSOR, "repeated": [3]},
        {**TENSOR, "repeated": [-1]},
        {**TENSOR, "repeated": [[0]]},
        {**TENSOR, "order": [0, 2, 1], "rows": 4097},
        {**FILL, "order": [0]},
        {**FILL, "rows": 1},
        {**FILL, "@fill": None},
        {**FILL, "@fill": "0"},
        {**FILL, "@fill": float("nan")},
        {**FILL, "@fill": 10**30},
        {"@tuple": 1},
        {"@tuple": [], "more": 1},
        {"@nested": [1]},
        {"@nested": {"a": FILL}},
        {"@nested": [{"@nested": []}]},
        {"@clip_vision": {"__class__": 1}},
        {"@clip_vision": [1]},
        {"@unknown": 1},
        {"@": 1},
        nested(40),
        nested(500),
        {"text": "\ud800"},
        {"\0": 1},
    ],
)
def test_malformed_packed_values_are_bad_requests(value):
    assert refused(manifest(cuts=[[value]])) == "bad_request"
    assert refused(manifest(cuts=[[{"inside": [value]}]])) == "bad_request"


def test_depth_is_limited_as_the_client_limits_it():
    assert admit(manifest(cuts=[[nested(values.MAX_DEPTH)]]), LIMITS, None) == []
    assert refused(manifest(cuts=[[nested(values.MAX_DEPTH + 1)]])) == "bad_request"


@pytest.mark.parametrize(
    "cut",
    [
        [{**FILL, "shape": [1 << 30, 1]}],
        [{**FILL, "shape": [1 << 30, 1], "repeated": [0]}],
        [{**FILL, "shape": [(1 << 47), (1 << 47)]}],
        [{**TENSOR, "shape": [1, 1 << 20, 4096]}],
        [{**FILL, "shape": [1 << 28]}] * 5,
        [{**FILL, "shape": [0]}] * 257,
        [{"text": "x" * 20001}],
    ],
)
def test_tensors_are_limited_by_what_they_will_be(cut):
    assert refused(manifest(cuts=[cut])) == "too_large"


@pytest.mark.parametrize(
    "inputs",
    [
        {"steps": 1001},
        {"steps": 1e9},
        {"steps": "100000"},
        {"steps": "inf"},
        {"steps": 10**19},
        {"num_steps": 1001},
        {"base.steps": 1001},
        {"steps": {"__value__": 1001}},
        {"steps": {"@cut": 0}},
        {"steps": ["7", 0]},
        {"width": 16385},
        {"target_height": 16385},
        {"batch_size": 65},
        {"length": 1026},
        {"num_frames": 1026},
        {"text": "x" * 20001},
        {"text": {"@cut": 1}},
        {"x" * 20001: 1},
    ],
)
def test_numbers_and_texts_have_limits_wherever_they_come_from(inputs):
    graph = sampler_inputs(**inputs)
    graph["7"] = {"class_type": "PrimitiveInt", "inputs": {"value": 1001}}
    cuts = [[100_000], ["x" * 20001]] if inputs == {"text": {"@cut": 1}} else [[100_000]]
    code = refused(manifest(graph=graph, cuts=cuts))
    assert code == ("bad_request" if "x" * 20001 in inputs else "too_large")


def test_numbers_within_the_limits_pass():
    limits = {"steps": 1000, "width": 16384, "height": 16384, "batch_size": 64, "length": 1025, "video_frames": 1025}
    graph = sampler_inputs(**limits, end_at_step=10000, seed=2**64 - 1, steps_text="many", wavelength=99999)
    assert admit(manifest(graph=graph), LIMITS, CAPABILITIES) == []


def test_graphs_and_cuts_have_limits():
    nodes = {str(number): {"class_type": "KSampler", "inputs": {}} for number in range(201)}
    assert refused(manifest(graph=nodes)) == "too_large"
    assert refused(manifest(cuts=[[]] * 65)) == "too_large"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x.safetensors",
        "\\\\server\\x.safetensors",
        "C:\\x.ckpt",
        "c:x.ckpt",
        "../x.pt",
        "a/../../x.pth",
        "a\\..\\x.GGUF",
        "..\\x.bin",
        "a\0.safetensors",
        " /etc/x.safetensors ",
        "a picture of embedding:../../x.pt",
    ],
)
def test_models_are_names_and_not_paths(name):
    for capabilities in (None, CAPABILITIES):
        for value, cuts in [(name, []), ({"__value__": [name]}, []), ({"@cut": 0}, [[name]]), ({name: 1}, [])]:
            job = manifest(graph=sampler_inputs(lora=value), cuts=cuts)
            assert refused(job, capabilities=capabilities) == "bad_request"


def test_models_and_classes_must_be_there():
    for name in ("other.safetensors", "known.SAFETENSORS", "inside.safetensors", "a dog, embedding:no.pt"):
        assert refused(manifest(graph=sampler_inputs(lora=name))) == "missing_model"
    for name in (
        "flux/inside.safetensors",
        "flux\\inside.safetensors",
        "a..b",
        "a dog, embedding:known.safetensors",
        "../not a model",
    ):
        assert admit(manifest(graph=sampler_inputs(lora=name)), LIMITS, CAPABILITIES) == []
    graph = sampler_inputs()
    graph["5"]["class_type"] = "VelocityReturn"
    assert refused(manifest(graph=graph)) == "unsupported_node"
    with pytest.raises(Refusal, match="'VelocityReturn'"):
        check_nodes_and_models(manifest(graph=graph), CAPABILITIES)
    assert admit(manifest(graph=graph), LIMITS, None) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 21, "1" * 5000])
def test_numbers_that_no_client_sends_are_no_json(number):
    with pytest.raises(Refusal) as caught:
        parse_json(b'{"cfg": ' + number.encode() + b"}")
    assert caught.value.code == "bad_request"
    assert parse_json(b'{"seed": 18446744073709551615, "cfg": 1e300}') == {"seed": 2**64 - 1, "cfg": 1e300}


@pytest.mark.parametrize(
    "job",
    [
        manifest(graph={f"n{number}": 1 for number in range(300_000)}),
        manifest(graph=sampler_inputs(steps=[0] * 1_500_000)),
        manifest(graph=sampler_inputs(lora=["known.safetensors"] * 49_000)),
        manifest(cuts=[[[FILL] * 10_000]]),
        manifest(cuts=[[["x" * 20_000] * 200]]),
    ],
)
def test_the_largest_bodies_keep_nobody_waiting(job):
    body = json.dumps(job).encode()
    start = time.process_time()
    try:
        admit(parse_json(body), LIMITS, CAPABILITIES)
    except Refusal as refusal:
        assert refusal.code == "too_large"
    assert time.process_time() - start < 1


def test_what_many_inputs_share_is_still_checked():
    """A cut that is looked at once is held to the limit of each kind of input that takes it."""
    fine = sampler_inputs(a={"@cut": 0}, b={"@cut": 0})
    assert admit(manifest(graph=fine, cuts=[[5000]]), LIMITS, CAPABILITIES) == []
    for name in ("steps", "x.batch_size", "amount"):
        assert (
            refused(manifest(graph=sampler_inputs(a={"@cut": 0}, **{name: {"@cut": 0}}), cuts=[[5000]])) == "too_large"
        )
    assert refused(manifest(graph=fine, cuts=[["../x.safetensors"]])) == "bad_request"
    assert refused(manifest(graph=fine, cuts=[["other.safetensors"]])) == "missing_model"
