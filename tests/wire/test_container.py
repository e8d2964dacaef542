"""A result file comes back as it was written, and a broken or malicious one is refused without harm."""

import io
import json
import random
import tracemalloc

import pytest
import torch
from velocity_nodes.remote.wire.blob import BlobError, blob_name, encode_header
from velocity_nodes.remote.wire.container import MAX_HEADER, read_container, write_container
from velocity_nodes.remote.wire.values import pack, unpack

from tests.wire.mutations import mutated

VALUE = [{"samples": torch.arange(24.0).reshape(1, 2, 3, 4) / 7, "noise_mask": torch.eye(4)[None], "n": (1, 2.5, None)}]


def packed(value) -> tuple[object, dict[str, bytes]]:
    blobs = {}

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    return pack(value, add), blobs


def written(value, blobs: dict[str, bytes], known=()) -> bytes:
    file = io.BytesIO()
    write_container(file, value, blobs, known)
    return file.getvalue()


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_it_comes_back():
    value, blobs = packed(VALUE)
    again, found = read_container(written(value, blobs))
    assert (again, found) == (value, blobs)
    back = unpack(again, found.__getitem__)
    assert back[0]["samples"].equal(VALUE[0]["samples"])
    assert back[0]["noise_mask"].equal(VALUE[0]["noise_mask"])
    assert back[0]["n"] == (1, 2.5, None)
    assert read_container(written([], {})) == ([], {})


def test_what_the_reader_has_is_not_written():
    value, blobs = packed(VALUE)
    mine = dict([max(blobs.items(), key=lambda item: len(item[1]))])
    data = written(value, blobs, known=mine)
    assert next(iter(mine.values())) not in data
    assert len(data) < len(written(value, blobs))
    assert read_container(data, mine.items()) == (value, blobs)


@pytest.mark.parametrize("keep", [0, 7, 8, 20, -1, -100])
def test_cut_off(keep):
    with pytest.raises(BlobError):
        read_container(written(*packed(VALUE))[:keep])


BLOB = encode_header("U8", (4,)) + b"abcd"
NAME, SIZE = blob_name(BLOB), len(BLOB)
INNER = encode_header("U8", (SIZE,)) + BLOB  # a blob within a blob
INNER_NAME = blob_name(INNER)


@pytest.mark.parametrize(
    "data",
    [
        (1 << 63).to_bytes(8, "little") + b"{}",
        (MAX_HEADER + 1).to_bytes(8, "little") + b" " * (MAX_HEADER + 1),
        raw(b"[" * 100_000),
        raw(b'{"value":' * 100_000),
        raw(b"\xff\xfe"),
        raw([]),
        raw(None),
        raw({"blobs": {}}),
        raw({"value": 1}),
        raw({"value": 1, "blobs": []}),
        raw({"value": 1, "blobs": "ab"}),
        raw({"value": 1, "blobs": {NAME: 5}}, BLOB),
        raw({"value": 1, "blobs": {NAME: []}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, SIZE, 0]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: ["0", str(SIZE)]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, SIZE + 0.5]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, float("inf")]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, float("nan")]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [-SIZE, 0]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [5, SIZE]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, SIZE + 1]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [0, 1 << 62]}}, BLOB),
        raw({"value": 1, "blobs": {NAME: [1, SIZE + 1]}}, b" " + BLOB),
        raw({"value": 1, "blobs": {NAME: [0, SIZE]}}, BLOB + b" "),
        raw({"value": 1, "blobs": {}}, BLOB),
        raw({"value": 1, "blobs": {"0" * 64: [0, SIZE]}}, BLOB),
        raw({"value": 1, "blobs": {"../../x": [0, SIZE]}}, BLOB),
        raw({"value": 1, "blobs": {NAME.upper(): [0, SIZE]}}, BLOB),
        raw({"value": 1, "blobs": {blob_name(b"abcd"): [0, 4]}}, b"abcd"),
        raw({"value": 1, "blobs": {INNER_NAME: [0, len(INNER)], NAME: [len(INNER) - SIZE, len(INNER)]}}, INNER),
    ],
    ids=lambda data: repr(data[8:80]),
)
def test_broken_or_malicious(data):
    tracemalloc.start()
    try:
        with pytest.raises(BlobError):
            read_container(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_ten_thousand_mutations():
    """Only BlobError comes out of reading and unpacking, and nothing large is made on the way."""
    chance = random.Random(5)
    value, blobs = packed(VALUE)
    value.append({"fill": {"@fill": 0.0, "dtype": "float32", "shape": [1, 2]}, "text": "a cat"})
    rows, more = packed([torch.cat([torch.randn(1, 3, 4), torch.zeros(1, 5, 4)], dim=1), torch.arange(9)])
    files = [written(value, blobs), written(value, blobs, known=blobs), written([value, rows], blobs | more)]
    accepted, limit = 0, 1 << 20
    tracemalloc.start()
    try:
        for number in range(10_000):
            data = files[number % len(files)]
            length = 8 + int.from_bytes(data[:8], "little")
            if number % 2:  # a header that keeps its length gets further
                text = mutated(data[8:length], chance)
                data = len(text).to_bytes(8, "little") + text + data[length:]
            else:
                data = mutated(data, chance)
            try:
                again, found = read_container(data, blobs.items())
                unpack(again, found.__getitem__, max_bytes=limit)
            except BlobError:
                continue
            accepted += 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert 0 < accepted < 5000
