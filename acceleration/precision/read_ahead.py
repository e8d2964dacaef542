"""Tensors of a file in the order in which they lie there, read by a thread while the ones before are worked on.

Plain reads into two buffers that are used again and again: pages of a mapped file would add up to a second model, and
come one fault at a time, slowest on Windows.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from typing import BinaryIO, NamedTuple

import torch

PIECE = 1 << 22  # bytes read at once, where no tensor is larger


class Place(NamedTuple):
    """Where a tensor's bytes are in its file. They may begin anywhere, as it is with safetensors."""

    begin: int
    end: int
    name: str
    shape: torch.Size
    dtype: torch.dtype


def read_tensors(path: str, places: Iterable[Place]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and values. A tensor holds until the next one is asked for. OSError for a file that is too short."""
    pieces = _pieces(sorted(places))
    size = max((piece[-1].end - piece[0].begin for piece in pieces), default=0)
    buffers = chain.from_iterable(repeat([memoryview(torch.empty(size, dtype=torch.uint8).numpy()) for _ in range(2)]))
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(1, "velocity-read") as thread:
        reads = (thread.submit(_read, file, piece, buffer) for piece, buffer in zip(pieces, buffers, strict=False))
        coming = next(reads, None)
        for piece in pieces:
            buffer, coming = coming.result(), next(reads, None)
            for place in piece:
                yield place.name, _tensor(buffer, place, place.begin - piece[0].begin)


def _pieces(places: list[Place]) -> list[list[Place]]:
    """Neighbours that are read together."""
    pieces: list[list[Place]] = []
    for place in places:
        if not pieces or place.begin != pieces[-1][-1].end or place.end - pieces[-1][0].begin > PIECE:
            pieces.append([])
        pieces[-1].append(place)
    return pieces


def _read(file: BinaryIO, piece: list[Place], buffer: memoryview) -> memoryview:
    file.seek(piece[0].begin)
    left = buffer[: piece[-1].end - piece[0].begin]
    while left:
        count = file.readinto(left)
        if not count:
            raise OSError(f"{file.name} ends before {piece[-1].name}; has it been changed since?")
        left = left[count:]
    return buffer


def _tensor(buffer: memoryview, place: Place, offset: int) -> torch.Tensor:
    count = place.shape.numel()
    if not count:
        return torch.empty(place.shape, dtype=place.dtype)
    return torch.frombuffer(buffer, dtype=place.dtype, count=count, offset=offset).view(place.shape)
