"""Times the steps of a run without stalling the GPU: CUDA events where there is CUDA, the host's clock elsewhere."""

import time

import torch


class StepClock:
    """`mark` at the begin of each step; `intervals` once at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._marks: list = []
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def mark(self) -> None:
        """Note the begin of a step."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record(torch.cuda.current_stream(self._device))
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def intervals(self) -> list[float]:
        """Return the seconds of each step; the last ends now. Waits for the GPU."""
        self.mark()
        if not self._cuda:
            return [after - before for before, after in zip(self._marks, self._marks[1:], strict=False)]
        torch.cuda.synchronize(self._device)
        return [a.elapsed_time(b) / 1000.0 for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def peak_memory(self) -> int | None:
        """Return the most bytes allocated on the device since the clock was made.

        None off CUDA, and with dynamic VRAM, whose weights torch does not count.
        """
        from comfy.memory_management import aimdo_enabled

        return torch.cuda.max_memory_allocated(self._device) if self._cuda and not aimdo_enabled else None
