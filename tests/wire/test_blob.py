"""A blob is one safetensors file in one form, and nothing else passes for one."""

import json
import random
import tracemalloc

import pytest
import safetensors.torch
import torch
from velocity_nodes.remote.wire.blob import (
    ITEM_BYTES,
    MAX_HEADER,
    BlobError,
    blob_name,
    check_blob,
    check_shape,
    encode_header,
    is_blob_name,
    read_header,
)
from velocity_nodes.remote.wire.lossless import SAFETENSORS_NAMES
from velocity_nodes.remote.wire.tensor_blob import blob_tensor, tensor_blob

from tests.wire.mutations import mutated


def header(text: str | bytes | dict, length: int | None = None, data: bytes = b"") -> bytes:
    raw = json.dumps(text).encode() if isinstance(text, dict) else text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(**changes: object) -> dict:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize("dtype", SAFETENSORS_NAMES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (1, 2, 3, 4, 5)], ids=str)
def test_the_safetensors_library_reads_it(dtype, shape):
    tensor = (torch.rand(shape) * 4).to(dtype)
    data = tensor_blob(tensor)
    theirs = safetensors.torch.load(data)["t"]
    assert (theirs.dtype, theirs.shape) == (dtype, tensor.shape)
    assert theirs.double().equal(tensor.double())
    found = check_blob(blob_name(data), data)
    assert (found.dtype, found.shape, found.start % 8) == (SAFETENSORS_NAMES[dtype], shape, 0)
    assert blob_tensor(data).double().equal(tensor.double())
    assert ITEM_BYTES[found.dtype] == dtype.itemsize


GOOD = tensor_blob(torch.arange(12, dtype=torch.float32).reshape(3, 4))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        (1 << 63).to_bytes(8, "little"),
        (MAX_HEADER + 1).to_bytes(8, "little") + b" " * 5000,
        header("{}"),
        header("null"),
        header("[]"),
        header('"t"'),
        header("{" * 1000),
        header("[" * 1000),
        header(b"\xff" * 20),
        header(entry(), data=bytes(8)),  # not padded: not the one form
        header(entry(shape=[-2])),
        header(entry(shape=[-1, -2])),
        header(entry(shape=[1 << 60])),
        header(entry(shape=[1 << 40] * 8)),
        header(entry(shape=[1] * 9)),
        header(entry(shape=[2.0])),
        header(entry(shape=[True])),
        header(entry(shape={"2": 1})),
        header(entry(shape="2")),
        header(entry(shape=[[2]])),
        header(entry(dtype="F128")),
        header(entry(dtype=["F32"])),
        header(entry(dtype=None)),
        header(entry(data_offsets=[8, 0])),
        header(entry(data_offsets=[-8, 0])),
        header(entry(data_offsets=[4, 12])),
        header(entry() | {"u": entry()["t"]}),
        header(entry() | {"__metadata__": {"a": "b"}}),
    ],
    ids=lambda data: repr(data[:48]),
)
def test_other_headers_are_refused(data):
    tracemalloc.start()
    try:
        with pytest.raises(BlobError):
            check_blob(blob_name(data), data)
        with pytest.raises(BlobError):
            blob_tensor(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [GOOD[:-1], GOOD + b"\0", GOOD[:20]])
def test_data_of_another_size_are_refused(data):
    with pytest.raises(BlobError):
        check_blob(blob_name(data), data)


def test_another_name_is_refused():
    assert check_blob(blob_name(GOOD), GOOD).shape == (3, 4)
    with pytest.raises(BlobError, match="hash"):
        check_blob(blob_name(GOOD + b"1"), GOOD)
    with pytest.raises(BlobError, match="hash"):
        check_blob(blob_name(GOOD).upper(), GOOD)


@pytest.mark.parametrize(
    "name", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "../" + "0" * 61, "0" * 63 + "\n", b"0" * 64, None, 5]
)
def test_only_hexadecimal_digits_are_a_name(name):
    assert not is_blob_name(name)
    assert is_blob_name(blob_name(b""))


@pytest.mark.parametrize("shape", [None, 5, "12", {1: 2}, [-1], [None], [1e3], [False], [1 << 48], [1] * 9])
def test_only_a_few_sizes_are_a_shape(shape):
    with pytest.raises(BlobError):
        check_shape(shape)


def test_a_huge_shape_costs_nothing():
    with pytest.raises(BlobError):
        check_blob("0" * 64, encode_header("F64", ((1 << 48) - 1,) * 8) + b"data")


def test_booleans_are_0_or_1():
    data = encode_header("BOOL", (2,)) + b"\1\2"
    with pytest.raises(BlobError):
        blob_tensor(data)


def test_ten_thousand_mutations():
    chance = random.Random(4)
    blobs = [GOOD, tensor_blob(torch.ones(2, dtype=torch.bool)), tensor_blob(torch.zeros(1, 0, 4)), GOOD[:20]]
    accepted = 0
    tracemalloc.start()
    try:
        for number in range(10_000):
            data = mutated(blobs[number % len(blobs)], chance)
            try:
                found = check_blob(blob_name(data), data)
                tensor = blob_tensor(data)
            except BlobError:
                continue
            accepted += 1
            assert tuple(tensor.shape) == found.shape == read_header(data).shape
            assert tensor.numel() * tensor.itemsize == len(data) - found.start
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert 0 < accepted < 5000, "mutations of the data pass, those of the header do not"
