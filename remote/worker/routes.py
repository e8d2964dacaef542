"""What the endpoint asks its worker besides ComfyUI's own routes, and who else may ask: nobody."""

import asyncio
import os
from collections.abc import Callable

import folder_paths
from aiohttp import web
from server import PromptServer

import nodes

from ..wire.fingerprint import fingerprint
from ..wire.worker_secret import HEADER, HELLO, VARIABLE, is_right, proof
from .allowed import is_allowed

PACK = __package__.removesuffix(".remote.worker")


def add_routes() -> None:
    """Register `GET /velocity/worker` and `POST /velocity/cancel`, and close all routes to who lacks the secret."""
    server = PromptServer.instance
    secret = os.environ.pop(VARIABLE)
    server.app.middlewares.insert(0, _closed_without(secret))

    @server.routes.get(HELLO)
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=proof(secret, request.query.get("nonce", "")))

    @server.routes.get("/velocity/worker")
    async def worker(_request: web.Request) -> web.Response:
        models = await asyncio.to_thread(model_files)
        classes = nodes.NODE_CLASS_MAPPINGS
        allowed = [name for name, node_class in classes.items() if is_allowed(name, node_class, PACK)]
        answer = {"fingerprint": fingerprint(), "models": models, "allowed": allowed, "classes": list(classes)}
        return web.json_response(answer)

    @server.routes.post("/velocity/cancel")
    async def cancel(request: web.Request) -> web.Response:
        return web.json_response({"found": cancel_prompt((await request.json())["prompt_id"])})


def _closed_without(secret: str) -> Callable:
    @web.middleware
    async def closed(request: web.Request, handler: Callable) -> web.StreamResponse:
        if request.path != HELLO and not is_right(secret, request.headers.get(HEADER, "")):
            return web.Response(status=403, text="This ComfyUI is a worker of `velocity serve`, and works for it alone")
        return await handler(request)

    return closed


def cancel_prompt(prompt_id: str) -> str:
    """Take a prompt out of ComfyUI's queue, or interrupt it; return `queued`, `running` or `` if it is neither.

    Under the queue's lock, so that the prompt can't end and the next one be hit instead. ComfyUI clears the flag when
    a prompt begins: one that is just beginning may miss it, and the caller asks again until the prompt has ended.
    """
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:
        if queue.delete_queue_item(lambda item: item[1] == prompt_id):
            return "queued"
        if any(item[1] == prompt_id for item in queue.currently_running.values()):
            nodes.interrupt_processing()
            return "running"
    return ""


def model_files() -> dict[str, dict[str, list]]:
    """Return folder -> name -> [bytes, time of change, absolute path] of every model that ComfyUI lists."""
    folders = {}
    for folder, (_, suffixes) in list(folder_paths.folder_names_and_paths.items()):
        if ".safetensors" in suffixes:
            paths = {name: folder_paths.get_full_path(folder, name) for name in folder_paths.get_filename_list(folder)}
            folders[folder] = {name.replace(os.sep, "/"): _describe(path) for name, path in paths.items() if path}
    return folders


def _describe(path: str) -> list:
    status = os.stat(path)
    return [status.st_size, status.st_mtime, os.path.abspath(path)]
