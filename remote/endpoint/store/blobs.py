"""The blobs on disk, `blobs/ab/abcd...`. Written while they arrive; the least recently used make room for new ones."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterable, Callable, Container, Iterable
from pathlib import Path

from ...wire.blob import MAX_HEADER, BlobHeader, is_blob_name, read_header
from .arrival import Arrival

MAX_BLOBS = 100_000  # files; the smallest blob has some hundred bytes
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class DiskFullError(OSError):
    """The blob cannot be kept: the disk or the store is full of blobs that unfinished jobs need."""


class BlobStore:
    """Blobs by name. `spared` returns the names that must not be evicted. All calls come from the event loop."""

    def __init__(self, folder: Path, max_bytes: int, spared: Callable[[], set[str]] = set) -> None:
        self.folder, self.max_bytes, self._spared = folder, max_bytes, spared
        self._arriving = folder / "arriving"
        shutil.rmtree(self._arriving, ignore_errors=True)  # what a killed endpoint left half written
        self._arriving.mkdir(parents=True)
        found = ((path, path.stat()) for path in folder.glob("??/*") if is_blob_name(path.name))
        by_age = sorted(found, key=lambda item: item[1].st_mtime)
        self._sizes = OrderedDict((path.name, stat.st_size) for path, stat in by_age)
        self._total = sum(self._sizes.values())  # of what is here and what is arriving

    def path(self, name: str) -> Path:
        """Return where the blob is, or would be."""
        if not is_blob_name(name):
            raise ValueError("a blob's name is 64 hexadecimal digits")
        return self.folder / name[:2] / name

    def has(self, name: str) -> bool:
        """Whether the blob is here; asking counts as use."""
        if name not in self._sizes:
            return False
        try:
            os.utime(self.path(name))
        except OSError:  # someone deleted the file
            self._total -= self._sizes.pop(name)
            return False
        self._sizes.move_to_end(name)
        return True

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that are not here."""
        return [name for name in names if not self.has(name)]

    def header(self, name: str) -> BlobHeader:
        """Return the header of a blob that is here. Raises `OSError` if it is not."""
        with self.path(name).open("rb") as file:
            return read_header(file.read(8 + MAX_HEADER))

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def size_of(self, names: Iterable[str]) -> int:
        """Return the bytes of those of the blobs that are here."""
        return sum(self._sizes.get(name, 0) for name in names)

    async def receive(
        self,
        name: str,
        stream: AsyncIterable[bytes],
        max_bytes: int,
        reserve: Callable[[int], None] = lambda size: None,
        leave_first: Callable[[int], Container[str]] = lambda size: (),
    ) -> BlobHeader:
        """Write the blob that `stream` brings and return its header; on any error nothing of it is left.

        Both functions get its size: `reserve` once that is known, `leave_first` where room has to be made, and returns
        the names of blobs that leave before others. Stops reading at the first byte that is wrong. Raises `BlobError`,
        `BlobTooLargeError`, `DiskFullError`, and whatever `reserve` and the stream raise.
        """
        place = self.path(name)
        arrival = Arrival(max_bytes)
        reserved = 0
        handle, temporary = tempfile.mkstemp(dir=self._arriving)
        os.close(handle)
        try:
            async for piece in arrival.pieces(stream):
                if not reserved:
                    reserve(arrival.size)
                    self._make_room(arrival.size, leave_first)
                    reserved = arrival.size
                    self._total += reserved
                await asyncio.to_thread(arrival.write, temporary, piece)
            header = arrival.finish(name)
            place.parent.mkdir(exist_ok=True)
            if not self.has(name):
                os.replace(temporary, place)
                self._sizes[name] = arrival.size
                self._total += arrival.size
            return header
        except OSError as error:
            if error.errno in _FULL:
                raise DiskFullError(error.errno, "the disk is full") from error
            raise
        finally:
            self._total -= reserved
            Path(temporary).unlink(missing_ok=True)

    def _make_room(self, size: int, leave_first: Callable[[int], Container[str]]) -> None:
        """Evict until one blob of `size` more bytes fits into the store and on the disk."""
        excess = max(self._total + size - self.max_bytes, size - shutil.disk_usage(self.folder).free)
        if excess <= 0 and len(self._sizes) < MAX_BLOBS:
            return
        spared, first = self._spared(), leave_first(size)
        for name in sorted((name for name in self._sizes if name not in spared), key=lambda name: name not in first):
            self.path(name).unlink(missing_ok=True)
            gone = self._sizes.pop(name)
            self._total -= gone
            excess -= gone
            if excess <= 0 and len(self._sizes) < MAX_BLOBS:
                return
        raise DiskFullError(errno.ENOSPC, "the blobs of unfinished jobs fill the store or the disk")
