"""A result is a list of latents of the shape that the job asked for, and takes no more memory than it may."""

import io
import json

import pytest
import torch
from velocity_nodes.remote.client.cut import Cut
from velocity_nodes.remote.client.errors import EndpointError
from velocity_nodes.remote.client.result import latents
from velocity_nodes.remote.wire.blob import BlobError, blob_name
from velocity_nodes.remote.wire.container import write_container
from velocity_nodes.remote.wire.values import pack

START = torch.randn(2, 16, 8, 8)


def container(value: object) -> bytes:
    blobs, file = {}, io.BytesIO()

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    write_container(file, pack(value, add), blobs)
    return file.getvalue()


def raw(packed: object) -> bytes:
    """A container whose value is written as it is."""
    header = json.dumps({"value": packed, "blobs": {}}).encode()
    return len(header).to_bytes(8, "little") + header


def filled(*shape: int, dtype: str = "float32") -> dict:
    return {"samples": {"@fill": 0.0, "dtype": dtype, "shape": list(shape)}}


def result(data: bytes, start: object = START, sampler: str = "KSampler", **more: object) -> list:
    cut = Cut(graph={"1": {"class_type": sampler, "inputs": {"latent_image": {"@cut": 0}}}}, output=["1", 0])
    return latents(data, (), cut, [[{"samples": start, **more}]])


def test_latents_come_back_as_they_are():
    items = [{"samples": torch.randn(2, 16, 8, 8), "noise_mask": torch.ones(2, 8, 8)}]
    back = result(container(items))
    assert torch.equal(back[0]["samples"], items[0]["samples"]) and torch.equal(
        back[0]["noise_mask"], torch.ones(2, 8, 8)
    )


EMPTY = torch.zeros(2, 4, 8, 8)
SPATIAL, TEMPORAL = {"downscale_ratio_spacial": 8}, {"downscale_ratio_temporal": 4}


@pytest.mark.parametrize(
    ("start", "more", "shape"),
    [
        (START, {}, (2, 16, 8, 8)),
        (START, {}, (2, 16, 1, 8, 8)),
        (EMPTY, {}, (2, 16, 8, 8)),
        (EMPTY, {}, (2, 16, 1, 8, 8)),
        (EMPTY, SPATIAL, (2, 128, 4, 4)),
        (EMPTY, SPATIAL, (2, 3, 64, 64)),
        (torch.zeros(1, 16, 5, 8, 12), SPATIAL | TEMPORAL, (1, 48, 3, 4, 6)),
        (torch.zeros(1, 64, 100), {}, (1, 64, 100)),
    ],
)
def test_what_core_makes_of_a_latent(start, more, shape):
    assert result(container([{"samples": torch.randn(shape)}]), start, **more)[0]["samples"].shape == shape


@pytest.mark.parametrize(
    ("start", "more", "shape"),
    [
        (START, {}, (1, 16, 8, 8)),
        (START, SPATIAL, (2, 16, 4, 4)),
        (START, {}, (2, 4, 8, 8)),
        (START, {}, (1024,)),
        (EMPTY, {}, (3, 16, 8, 8)),
        (EMPTY, {}, (2, 16, 4, 4)),
        (EMPTY, SPATIAL, (2, 16, 4, 8)),
        (EMPTY, SPATIAL, (2, 16, 8, 8000)),
        (EMPTY, {}, (2, 16, 1, 1, 8, 8)),
        (torch.zeros(1, 16, 5, 8, 12), SPATIAL, (1, 48, 3, 4, 6)),
    ],
)
def test_a_latent_of_another_shape(start, more, shape):
    with pytest.raises(EndpointError, match="a latent of shape"):
        result(container([{"samples": torch.randn(shape)}]), start, **more)


def test_the_shape_is_free_where_nobody_knows_it():
    for sampler, start in (("MySampler", START), ("KSampler", None)):
        assert result(container([{"samples": torch.randn(1, 4, 3, 3)}]), start, sampler)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        "latent",
        [1],
        [torch.ones(1, 16, 8, 8)],
        [{}],
        [{"samples": "x"}],
        [{"samples": None}],
        [{"samples": torch.ones(2, 16, 8, 8, dtype=torch.int64)}],
        [{"samples": torch.ones(2, 16, 0, 8)}],
    ],
    ids=str,
)
def test_no_latents(value):
    with pytest.raises(EndpointError) as caught:
        result(container(value))
    assert caught.value.code == "bad_answer"


@pytest.mark.parametrize("shape", [(0, 2**40, 2**40), (2**47, 1), (1, 16, 2**15, 2**15), (2**40, 2**40, 0)], ids=str)
def test_a_small_result_takes_little_memory(shape):
    """Each is refused before anything of that size is made."""
    with pytest.raises(BlobError):
        result(raw([filled(*shape)]), None)


def test_many_small_tensors_are_one_sum():
    with pytest.raises(BlobError, match="more bytes than are allowed"):
        result(raw([filled(1, 16, 1024, 1024)] * 5), None)


def test_a_value_without_an_end():
    with pytest.raises((BlobError, EndpointError)):
        result(raw(json.loads("[" * 500 + "]" * 500)))
