"""`velocity serve`: puts the parts together and runs them until it is told to stop."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from ..wire.short_text import shorten_logs
from .api.app import create_app
from .api.door import Door, protocol_behind
from .api.keys import VARIABLE, Keys, KeysError, load_keys
from .options import is_loopback, parse
from .scheduling.scheduler import Scheduler
from .settings import GIGABYTE, Settings
from .store.blobs import BlobStore
from .store.events import EventLog
from .store.journal import FolderInUseError, Journal, lock_folder
from .store.metrics import Metrics

log = logging.getLogger("velocity")


def main(arguments: list[str] | None = None, make_scheduler: Callable[..., Scheduler] = Scheduler) -> int:
    """Run `velocity` with these arguments (default: the process's); return its exit code."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    shorten_logs()
    settings, more = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        _make_folders(settings.data)
        lock = lock_folder(settings.data)
        keys = load_keys(settings.data, more.keys)
    except (FolderInUseError, KeysError, OSError) as error:
        log.error("%s", error)
        return 1
    if not is_loopback(settings.host) and not keys.chosen:
        log.error(
            "%s is reachable from other machines, so a key must be chosen on purpose: set %s or give --keys FILE",
            settings.host,
            VARIABLE,
        )
        return 1
    tls = more.certificate is not None
    if not is_loopback(settings.host) and not tls:
        log.warning(
            "without TLS everyone on the way reads the key and the tensors: listen on 127.0.0.1 and use a tunnel "
            "(ssh -L %d:127.0.0.1:%d), or give --certificate and --certificate-key",
            settings.port,
            settings.port,
        )
    try:
        return serve(build(settings, keys, make_scheduler), settings, keys, more.certificate, more.certificate_key)
    finally:
        lock.close()


def serve(
    app: FastAPI, settings: Settings, keys: Keys, certificate: Path | None = None, certificate_key: Path | None = None
) -> int:
    """Serve until SIGTERM or Ctrl+C, and return 0; 1 when the port is taken or the certificate no good."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        access_log=False,
        server_header=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=2,
        http=protocol_behind(_door(settings)),
        ssl_certfile=certificate,
        ssl_keyfile=certificate_key,
    )
    server = _Server(config, lambda: _announce(settings, keys, tls=certificate is not None))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped_by_uvicorn)
    try:
        server.run()
    except SystemExit:
        return 1
    except OSError as error:
        log.error("the endpoint could not start: %s; check --host, --port and the certificate", error)
        return 1
    return 0 if server.started else 1


def build(settings: Settings, keys: Keys, make_scheduler: Callable[..., Scheduler] = Scheduler) -> FastAPI:
    """Return the app with all its parts, on the data folder of the settings."""
    _make_folders(settings.data)
    journal = Journal(settings.data / "journal.sqlite")
    blobs = BlobStore(settings.data / "blobs", int(settings.blob_gigabytes * GIGABYTE), journal.blobs_in_use)
    events, metrics = EventLog(), Metrics()
    scheduler = make_scheduler(settings, journal, blobs, events, metrics)
    return create_app(settings, journal, blobs, events, keys, scheduler, metrics)


class _Server(uvicorn.Server):
    """Says when it listens; and stops the workers before it waits for connections, as event streams end only then."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start
        self.about_worker: asyncio.Task | None = None

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start()
            self.about_worker = asyncio.create_task(_announce_worker(self.config.app.state.scheduler))

    async def shutdown(self, sockets: list | None = None) -> None:
        log.info("stopping")
        self.about_worker.cancel()
        await self.config.app.state.stop()
        await super().shutdown(sockets)


def _stopped_by_uvicorn(number: int, frame: FrameType | None) -> None:
    """Uvicorn raises the signals again that it has obeyed; this handler lets the process end with 0."""


def _door(settings: Settings) -> Door:
    """Return the door, with half of the files that this process may open left for jobs and workers."""
    most = settings.limits.connections
    if os.name == "posix":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY:  # which macOS does not take
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        if soft != resource.RLIM_INFINITY:
            most = min(most, soft // 2)
    return Door(most, settings.limits.connections_per_address)


def _make_folders(data: Path) -> None:
    """Make the folders, for this account alone, also where they are there already: jobs and their tensors lie there."""
    for folder in (data, data / "blobs", data / "results"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)


def _announce(settings: Settings, keys: Keys, tls: bool) -> None:
    """Print where the endpoint is and what a client needs; the key only if it has just been made."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'https' if tls else 'http'}://{host}:{settings.port}"
    key = keys.keys[0].secret if keys.generated else "THE KEY"
    lines = [f"velocity serve listens at {url}", f"data folder: {settings.data}"]
    if keys.generated:
        lines.append(f"new key, printed this once and kept in {settings.data / 'key'}: {key}")
    lines += [
        "on the client, before ComfyUI starts:",
        f"    VELOCITY_ENDPOINT={url} VELOCITY_API_KEY={key}",
        "or in its ComfyUI/user/__velocity/endpoints.json:",
        "    " + json.dumps({"default": {"url": url, "key": key}}),
    ]
    print("\n".join(lines), flush=True)


async def _announce_worker(scheduler: Scheduler) -> None:
    """Print what the first worker runs on, once one is ready."""
    while (capabilities := scheduler.capabilities()) is None:
        await asyncio.sleep(0.5)
    named = [f"{name} {value}" for name, value in capabilities.get("fingerprint", {}).items() if value]
    models = sum(len(names) for names in capabilities["models"].values())
    print(f"ready: {', '.join(named)}; {len(capabilities['node_classes'])} node classes, {models} models", flush=True)
