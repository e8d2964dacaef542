"""Shows a remote job on the node of the sampler: progress bar, live preview, and a line of text."""

import base64
import io
import logging
from collections.abc import Mapping
from typing import Any

from .said import harmless

log = logging.getLogger("velocity")
PREVIEW_SIZE = 512


class SamplerDisplay:
    """`node` is the node that runs, `shown_on` the one in the user's graph that stands for it. `before` are the nodes
    of samplers of the same job that come first, by their names in it."""

    def __init__(self, node: str, shown_on: str, before: Mapping[str, str]) -> None:
        self.shown_on, self.before, self.node = shown_on, dict(before), node
        self.now = next(iter(before.values()), node)  # whose steps are shown
        self.bar = self._bar(self.now)
        self.step = (0, 1)
        self.last_text = ""

    def text(self, text: str) -> None:
        """Put a line of text on the node."""
        if text != self.last_text:
            self.last_text = text
            show_text(text, self.shown_on)

    def tell(self, kind: str, data: Any) -> None:
        """Show an event of the protocol, or one of `JobRun`'s own. Raises ComfyUI's exception when interrupted."""
        text = _text(kind, data)
        if kind == "step":
            self._turn_to(self.before.get(data.get("node"), self.node))
            self.step = (data["value"], data["max"])
            self.bar.update_absolute(*self.step)
            text = self._which() + text
        elif kind == "preview":
            self.bar.update_absolute(*self.step, _preview(data))
        elif kind == "warning":
            log.warning("Offload: the endpoint says: %s", harmless(data["message"]))
        if text:
            self.text(text)

    def _turn_to(self, node: str) -> None:
        """Show the steps of another sampler; the one of before has done its."""
        if node != self.now:
            from comfy_execution.progress import get_progress_state

            get_progress_state().finish_progress(self.now)
            self.now, self.bar = node, self._bar(node)

    def _which(self) -> str:
        nodes = [*self.before.values(), self.node]
        return f"sampler {nodes.index(self.now) + 1} of {len(nodes)}, " if self.before else ""

    def _bar(self, node: str) -> Any:
        import comfy.utils

        return comfy.utils.ProgressBar(1, node_id=node)


def show_text(text: str, node: str) -> None:
    """Put a line of text on a node of the user's graph."""
    from server import PromptServer

    PromptServer.instance.send_progress_text(harmless(text), node)


def _text(kind: str, data: Any) -> str | None:
    if kind == "queued":
        wait = f", about {data['seconds']:.0f} s" if data.get("seconds") else ""
        return f"queued {_ordinal(data['position'] + 1)}{wait}"
    if kind == "cold":
        return f"cold start {data['seconds']:.0f} s" if data.get("seconds") else "cold start: loading the model"
    if kind in ("uploading", "downloading"):
        return f"{kind} {data[0] / 1e6:.1f}/{data[1] / 1e6:.1f} MB"
    texts = {
        "running": lambda: "running on the endpoint",
        "step": lambda: f"step {data['value']}/{data['max']}",
        "warning": lambda: data["message"],
        "reconnecting": lambda: f"reconnecting: {data}",
    }
    return texts[kind]() if kind in texts else None


def _preview(data: dict[str, Any]) -> tuple | None:
    """Return the preview as ComfyUI's progress bar takes it, None for bytes that are no picture."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(base64.b64decode(data["jpeg"])), formats=("JPEG", "PNG"))
        if max(image.size) > 4096:
            return None
        image.load()
    except (OSError, ValueError, KeyError):
        return None
    return ("JPEG", image, PREVIEW_SIZE)


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
