"""The connection to one worker: prompts go in over HTTP, what happens to them comes back over its websocket."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import aiohttp

from ...wire.short_text import shortened
from ..admission.refusal import LONGEST

# Binary messages of ComfyUI's websocket begin with their kind.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4
REQUEST_SECONDS = 60.0  # a worker that loads a model may take its time


class RefusedError(RuntimeError):
    """The worker did not accept a prompt; the message says which nodes it complains about."""


class WorkerLink:
    """`on_event(prompt_id, kind, data)` is called for `start`, `progress`, `preview`, `success`, `error` and
    `interrupted`; the data are ComfyUI's, for `preview` the bytes of a picture."""

    def __init__(self, url: str, headers: dict[str, str], on_event: Callable[[str, str, Any], None]) -> None:
        self.url, self.headers, self.on_event = url, headers, on_event
        self.client_id = uuid.uuid4().hex
        self.running = ""  # for messages that don't say which prompt they are about
        self.session: aiohttp.ClientSession | None = None
        self.socket: aiohttp.ClientWebSocketResponse | None = None

    async def open(self) -> None:
        """Connect. Raises `aiohttp.ClientError`."""
        self.session = aiohttp.ClientSession(headers=self.headers, timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS))
        self.socket = await self.session.ws_connect(f"{self.url}/ws?clientId={self.client_id}", max_msg_size=0)
        await self.socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})

    async def close(self) -> None:
        """Disconnect."""
        if self.session is not None:
            await self.session.close()

    async def post(self, prompt_id: str, prompt: dict[str, Any], preview: bool) -> int:
        """Queue a prompt at the worker and return its bytes.

        Raises `RefusedError`, `aiohttp.ClientError` and `asyncio.TimeoutError`.
        """
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id}
        if not preview:
            body["extra_data"] = {"preview_method": "none"}
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        async with self.session.post(f"{self.url}/prompt", data=data, headers=headers) as answer:
            if answer.status != 200:
                raise RefusedError(shortened(_refusal(await answer.text()), LONGEST))
        return len(data)

    async def cancel(self, prompt_id: str) -> str:
        """Return `queued` if the prompt was waiting and is gone now, `running` if it is interrupted, or ``."""
        return (await self._post("/velocity/cancel", {"prompt_id": prompt_id}))["found"]

    async def free(self) -> None:
        """Have the worker unload its models and forget its cache."""
        await self._post("/free", {"unload_models": True, "free_memory": True})

    async def forget(self, prompt_ids: list[str]) -> None:
        """Have the worker's ComfyUI remove prompts that have ended from its history."""
        await self._post("/history", {"delete": prompt_ids})

    async def about(self) -> dict[str, Any]:
        """Return fingerprint, models and node classes, as `Worker.start` does."""
        async with self.session.get(f"{self.url}/velocity/worker") as answer:
            return await answer.json()

    async def listen(self) -> None:
        """Pass events on until the connection ends."""
        async for message in self.socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                self._text(json.loads(message.data))
            elif message.type == aiohttp.WSMsgType.BINARY:
                self._binary(message.data)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self.session.post(self.url + path, json=body) as answer:
            answer.raise_for_status()
            return json.loads(await answer.text() or "{}")

    def _text(self, message: dict[str, Any]) -> None:
        kinds = {
            "execution_start": "start",
            "progress_state": "progress",
            "execution_success": "success",
            "execution_error": "error",
            "execution_interrupted": "interrupted",
        }
        kind, data = kinds.get(message.get("type")), message.get("data") or {}
        prompt_id = data.get("prompt_id")
        if kind is None or prompt_id is None:
            return
        if kind == "start":
            self.running = prompt_id
        self.on_event(prompt_id, kind, data)

    def _binary(self, data: bytes) -> None:
        kind = int.from_bytes(data[:4], "big")
        if kind == PREVIEW:  # then four bytes for the format
            self.on_event(self.running, "preview", data[8:])
        elif kind == PREVIEW_WITH_METADATA:
            length = int.from_bytes(data[4:8], "big")
            metadata = json.loads(data[8 : 8 + length])
            self.on_event(metadata.get("prompt_id") or self.running, "preview", data[8 + length :])


def _refusal(text: str) -> str:
    try:
        answer = json.loads(text)
        lines = [f"{answer['error'].get('message')} {answer['error'].get('details') or ''}".strip()]
        for problem in answer.get("node_errors", {}).values():
            found = (f"{error.get('message')}: {error.get('details')}" for error in problem["errors"])
            lines += [f"{problem.get('class_type')}: {text}" for text in found]
        return "; ".join(lines)
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
