"""The most memory of the card that was in use in some time."""

import threading

import torch

POLL = 0.02  # seconds


class Peak:
    """Looks at the card every `POLL` seconds: dynamic VRAM allocates beside torch, whose own peak tells little."""

    def __init__(self, budget: float = 0.0) -> None:
        """Of the card all but `budget` GiB are taken and don't count, unless that is 0. `gib` is None off CUDA."""
        self._budget = budget
        self.gib = self._used()

    def _used(self) -> float | None:
        if not torch.cuda.is_available():
            return None
        free, total = torch.cuda.mem_get_info()
        return (self._budget or total / 2**30) - free / 2**30

    def __enter__(self) -> "Peak":
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self.gib is not None and not self._ended.wait(POLL):
            self.gib = max(self.gib, self._used())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
