"""Who has sent which blob, and what each key may have on its way.

A blob is on the disk once, and to a key it is there only if that key has sent it: else an answer would tell that
somebody else has this prompt or picture.
"""

import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from functools import partial

from ..admission.refusal import Refusal
from ..admission.shares import Shares
from ..store.blobs import BlobStore
from ..store.journal import Journal

_NOTE = "senders of blob"


class Uploads:
    """The blobs of each key. `share_bytes` is what one may have that is arriving or that its unfinished jobs need."""

    def __init__(self, blobs: BlobStore, journal: Journal, shares: Shares) -> None:
        self.blobs, self.journal, self.shares = blobs, journal, shares
        self.share_bytes = shares.of(blobs.max_bytes)
        self._senders: dict[str, set[str]] = {name: set(keys) for name, keys in journal.notes(_NOTE).items()}
        self._arriving: Counter[str] = Counter()  # bytes by key
        self._heard: dict[tuple[str, str], float] = {}  # key and blob -> when a byte of it came last

    def has(self, owner: str, name: str) -> bool:
        """Whether the blob is here, as far as this key may know."""
        if not self.blobs.has(name):
            if name in self._senders:
                self._senders[name] = set()  # once it is here again, somebody else may have sent it
            return False
        return owner in self._senders.get(name, ())

    def missing(self, owner: str, names: Iterable[str]) -> list[str]:
        """Return those of the names that this key has to send."""
        return [name for name in names if not self.has(owner, name)]

    def heard(self, owner: str, names: Iterable[str]) -> float:
        """Return when a byte of one of these blobs came last (monotonic), 0.0 if none did."""
        return max((self._heard.get((owner, name), 0.0) for name in names), default=0.0)

    async def receive(self, owner: str, name: str, stream: AsyncIterable[bytes], max_bytes: int) -> None:
        """Take a blob from a key. Raises `Refusal` where its share is full, and what `BlobStore.receive` raises."""
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            self._check_share(owner, name, size)
            reserved = size
            self._arriving[owner] += size

        try:
            watched = self._watched(owner, name, stream)
            await self.blobs.receive(name, watched, max_bytes, reserve, partial(self._leaving_first, owner))
        finally:
            self._arriving[owner] -= reserved
        senders = self._senders.setdefault(name, set())
        if owner not in senders:
            senders.add(owner)
            self.journal.set_note(_NOTE, name, sorted(senders))

    def tidy(self, before: float) -> None:
        """Forget who has sent what is not here any more, and of what a byte came before then (monotonic)."""
        self._heard = {blob: when for blob, when in self._heard.items() if when >= before}
        gone = [name for name in self._senders if name not in self.blobs]
        for name in gone:
            del self._senders[name]
        self.journal.drop_notes(_NOTE, gone)

    async def _watched(self, owner: str, name: str, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for piece in stream:
            self._heard[owner, name] = time.monotonic()
            yield piece

    def _check_share(self, owner: str, name: str, size: int) -> None:
        if self.share_bytes == self.blobs.max_bytes:
            return
        names = self.journal.blobs_in_use(owner) - {name}
        needed = self.blobs.size_of(other for other in names if owner in self._senders.get(other, ()))
        if needed + self._arriving[owner] + size > self.share_bytes:
            message = f"the tensors of this key's unfinished jobs fill its share of the store, {self.share_bytes} bytes"
            raise Refusal("disk_full", message, self.shares.next_step("--blob-gigabytes"))

    def _leaving_first(self, owner: str, size: int) -> set[str]:
        """Return the blobs that make room first: those of this key alone, where it has more than its share."""
        sent = {name for name, keys in self._senders.items() if keys == {owner}}
        return sent if self.blobs.size_of(sent) + size > self.share_bytes else set()
