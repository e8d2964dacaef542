"""A blob on its way in: the header is read as soon as it is there, and what exceeds it is refused at once."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from ...wire.blob import MAX_HEADER, BlobError, BlobHeader, read_header

PIECE = 1 << 20  # what is held in memory of an arriving blob, about


class BlobTooLargeError(BlobError):
    """The blob's header announces more than the limit."""


class Arrival:
    """What is known of a blob while it arrives."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.received, self.size = max_bytes, 0, 0
        self.header: BlobHeader | None = None
        self._hash = hashlib.sha256()

    async def pieces(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the stream in pieces of about `PIECE` bytes, none before the header has been read and accepted."""
        waiting = bytearray()
        async for chunk in stream:
            waiting += chunk
            self.received += len(chunk)
            if self.header is None:
                self._look(waiting, ended=False)
            self._check_length()
            if self.header is not None and len(waiting) >= PIECE:
                yield bytes(waiting)
                waiting.clear()
        if self.header is None:
            self._look(waiting, ended=True)
            self._check_length()
        if waiting:
            yield bytes(waiting)

    def _look(self, begin: bytes | bytearray, ended: bool) -> None:
        """Read the header from the begin of the blob, if all of it is there. Raises `BlobError`."""
        length = int.from_bytes(begin[:8], "little")
        if not ended and (len(begin) < 8 or len(begin) < 8 + length <= 8 + MAX_HEADER):
            return
        self.header = read_header(bytes(begin[: 8 + MAX_HEADER]))
        self.size = self.header.start + self.header.data_bytes
        if self.size > self.max_bytes:
            raise BlobTooLargeError(f"the blob has {self.size} bytes, and {self.max_bytes} are allowed")

    def _check_length(self) -> None:
        """Raise `BlobError` if more came than the header says."""
        if self.header is not None and self.received > self.size:
            raise BlobError(f"more bytes came than the {self.size} that the header says")

    def write(self, path: str, piece: bytes) -> None:
        """Hash the piece and append it to the file; runs in a thread, which shares no open file with others."""
        self._hash.update(piece)
        with open(path, "ab") as file:
            file.write(piece)

    def finish(self, name: str) -> BlobHeader:
        """Return the header, if size and hash are right. Raises `BlobError`."""
        if self.received != self.size:
            raise BlobError(f"the blob is cut off: {self.received} of {self.size} bytes came")
        if self._hash.hexdigest() != name:
            raise BlobError("the bytes do not hash to the name they were sent under")
        return self.header
