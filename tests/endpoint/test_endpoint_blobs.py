"""The blob store: what it takes, what it refuses, and what it leaves behind."""

import asyncio
import os

import pytest
from velocity_nodes.remote.endpoint.store.arrival import BlobTooLargeError
from velocity_nodes.remote.endpoint.store.blobs import BlobStore, DiskFullError
from velocity_nodes.remote.wire.blob import BlobError, blob_name, encode_header

LIMIT = 1 << 24


def blob(size: int, filled: int = 1) -> bytes:
    return encode_header("U8", (size,)) + bytes([filled]) * size


class Stream:
    """Bytes in chunks, and how many of them were asked for."""

    def __init__(self, data: bytes, chunk: int = 4096) -> None:
        self.data, self.chunk, self.read = data, chunk, 0

    async def __aiter__(self):
        while self.read < len(self.data):
            piece = self.data[self.read : self.read + self.chunk]
            self.read += len(piece)
            yield piece


def receive(store: BlobStore, data: bytes, name: str | None = None, chunk: int = 4096, limit: int = LIMIT) -> Stream:
    stream = Stream(data, chunk)
    try:
        asyncio.run(store.receive(name or blob_name(data), stream, limit))
    finally:
        assert not list(store.folder.glob("arriving/*")), "a temporary file was left"
    return stream


@pytest.mark.parametrize(
    ("size", "chunk"), [(0, 1), (0, 4096), (1, 1), (3000, 7), (3000, 1), (3 << 20, 4096), (3 << 20, 1 << 22)]
)
def test_a_blob_comes_back_and_survives_a_restart(tmp_path, size, chunk):
    data = blob(size)
    receive(BlobStore(tmp_path, LIMIT), data, chunk=chunk)
    again = BlobStore(tmp_path, LIMIT)
    assert again.has(blob_name(data))
    assert again.path(blob_name(data)).read_bytes() == data
    assert again.header(blob_name(data)).shape == (size,)
    assert again.missing([blob_name(data), "0" * 64]) == ["0" * 64]


def test_wrong_bytes_are_refused_as_early_as_possible(tmp_path):
    store, good = BlobStore(tmp_path, LIMIT), blob(1 << 20)
    for data, name, most_read in [
        (b"\xff" * (1 << 20), None, 4096),  # a header of 2**64 bytes
        (b"\x40" + b"\0" * 7 + b"{" * (1 << 20), None, 4096),
        (good + b"\0" * (1 << 20), blob_name(good), len(good) + 4096),
        (good[:-1], blob_name(good), len(good)),
        (good[:5], blob_name(good), 5),
        (b"", blob_name(good), 0),
        (good[:-1] + b"\2", blob_name(good), len(good)),
    ]:
        stream = Stream(data)
        with pytest.raises(BlobError):
            asyncio.run(store.receive(name or blob_name(data), stream, LIMIT))
        assert stream.read <= most_read
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_blob_above_the_limit_is_refused_at_its_header(tmp_path):
    header = encode_header("F32", (1 << 40,))
    stream = Stream(header + b"\0" * (1 << 20))
    with pytest.raises(BlobTooLargeError):
        asyncio.run(BlobStore(tmp_path, LIMIT).receive("0" * 64, stream, LIMIT))
    assert stream.read <= 4096


def test_the_least_recently_used_leaves_and_blobs_in_use_stay(tmp_path):
    blobs = [blob(1000, filled=number) for number in range(5)]
    names = [blob_name(data) for data in blobs]
    needed = {names[1]}
    store = BlobStore(tmp_path, 3 * len(blobs[0]), spared=lambda: needed)
    for data in blobs[:3]:
        receive(store, data)
    assert store.has(names[0])  # used: now 1 is the oldest, but in use, so 2 leaves
    receive(store, blobs[3])
    assert store.missing(names) == [names[2], names[4]]
    needed.update(names)
    with pytest.raises(DiskFullError):
        receive(store, blobs[4])
    assert store.missing(names) == [names[2], names[4]]
    needed.clear()
    receive(store, blobs[4])
    assert store.has(names[4])


def test_the_order_of_use_survives_a_restart(tmp_path):
    blobs = [blob(1000, filled=number) for number in range(3)]
    store = BlobStore(tmp_path, LIMIT)
    for age, data in enumerate(blobs):
        receive(store, data)
        os.utime(store.path(blob_name(data)), (age, age))
    store.has(blob_name(blobs[0]))
    again = BlobStore(tmp_path, 3 * len(blobs[0]))
    receive(again, blob(1000, filled=9))
    assert again.missing(map(blob_name, blobs)) == [blob_name(blobs[1])]


def test_a_file_that_someone_deleted_is_missing(tmp_path):
    store, data = BlobStore(tmp_path, LIMIT), blob(10)
    receive(store, data)
    store.path(blob_name(data)).unlink()
    assert not store.has(blob_name(data))
    receive(store, data)
    assert store.path(blob_name(data)).read_bytes() == data


def test_names_are_names_not_paths(tmp_path):
    store = BlobStore(tmp_path, LIMIT)
    for name in ["../../etc/passwd", "A" * 64, "0" * 63, ""]:
        with pytest.raises(ValueError, match="64 hexadecimal"):
            receive(store, blob(1), name=name or "x")
