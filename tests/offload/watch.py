"""What a ComfyUI tells the browser while a prompt runs."""

import asyncio
import json
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from dev.server import ComfyServer

TEXT, PREVIEW = 3, 4  # ComfyUI's types of binary messages


@dataclass(frozen=True)
class Message:
    """One message: `kind` is ComfyUI's, or `text` (`data` is its line) or `preview` (`data` is what belongs to it)."""

    time: float
    kind: str
    node: str
    data: Any


class Watch:
    """A context manager around a websocket, as the browser opens it."""

    def __init__(self, client: ComfyServer) -> None:
        self.client, self.id = client, uuid.uuid4().hex
        self.messages: list[Message] = []
        self.loop = asyncio.new_event_loop()
        self.open = threading.Event()
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._listen()), daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        assert self.open.wait(30), "no websocket"
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join(10)

    def submit(self, graph: dict) -> str:
        """Queue a graph and return the prompt's id."""
        return self.client.post("/prompt", {"prompt": graph, "client_id": self.id})["prompt_id"]

    def until(self, kind: str, contains: str = "", timeout: float = 120) -> Message:
        """Return the first message of that kind whose data have `contains` in them."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for message in self.of(kind):
                if contains in str(message.data):
                    return message
            time.sleep(0.01)
        raise AssertionError(f"no {kind} {contains}; these came: {[(m.kind, m.node, m.data) for m in self.messages]}")

    def of(self, kind: str) -> list[Message]:
        """Return the messages of that kind so far."""
        return [message for message in list(self.messages) if message.kind == kind]

    async def _listen(self) -> None:
        self.stopped = asyncio.Event()
        url = f"{self.client.url}/ws?clientId={self.id}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            reader = asyncio.create_task(self._read(socket))
            await self.stopped.wait()
            reader.cancel()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            now = time.monotonic()
            if message.type == aiohttp.WSMsgType.BINARY:
                self.messages.append(_binary(now, message.data))
                continue
            data = json.loads(message.data)
            if data["type"] == "feature_flags":
                self.open.set()
            body = data["data"]
            self.messages.append(Message(now, data["type"], str(body.get("node") or ""), body))


def _binary(now: float, data: bytes) -> Message:
    kind, length = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    head, rest = data[8 : 8 + length].decode(), data[8 + length :]
    if kind == TEXT:
        return Message(now, "text", head, rest.decode())
    assert kind == PREVIEW, f"a binary message of type {kind}"
    described = json.loads(head)
    return Message(now, "preview", described["display_node_id"], {**described, "bytes": len(rest), "head": rest[:3]})
