"""Puts the HTTP side together: routes, errors, start, stop and the clearing away of old jobs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI

from ..admission.shares import Shares
from ..scheduling.intake import Intake
from ..scheduling.scheduler import Scheduler
from ..settings import Settings
from ..store.blobs import BlobStore
from ..store.events import EventLog
from ..store.journal import Journal
from ..store.metrics import Metrics
from .answers import add_error_answers
from .bodies import Traffic
from .gate import Gate
from .keys import Keys
from .routes import Routes

log = logging.getLogger("velocity")
EXPIRY_SECONDS = 60.0


def create_app(
    settings: Settings,
    journal: Journal,
    blobs: BlobStore,
    events: EventLog,
    keys: Keys,
    scheduler: Scheduler,
    metrics: Metrics,
) -> FastAPI:
    """Return the app. Its lifespan starts and stops the scheduler; `app.state.stop()` does the latter sooner,
    `app.state.expire()` clears old jobs away at once."""
    shares = Shares(settings.limits, len(keys.keys))
    intake = Intake(settings, journal, blobs, events, scheduler, metrics, shares)
    places = shares.of(settings.limits.connections)
    gate = Gate(keys, settings.limits.rate, settings.limits.burst, places)
    routes = Routes(gate, intake)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await scheduler.start()
        intake.resume()
        expiry = asyncio.create_task(_expire_forever(intake))
        yield
        expiry.cancel()
        await intake.stop()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.scheduler, app.state.stop, app.state.expire = scheduler, intake.stop, intake.expire
    app.add_api_route("/v1/health", routes.health, methods=["GET"])
    router = APIRouter(dependencies=[Depends(routes.authorize)])
    for method, path, handler in [
        ("GET", "/v1/capabilities", routes.capabilities),
        ("POST", "/v1/jobs", routes.submit),
        ("GET", "/v1/jobs/{job_id}", routes.job),
        ("DELETE", "/v1/jobs/{job_id}", routes.delete),
        ("GET", "/v1/jobs/{job_id}/events", routes.events_of),
        ("GET", "/v1/jobs/{job_id}/result", routes.result),
        ("PUT", "/v1/blobs/{name}", routes.put_blob),
        ("HEAD", "/v1/blobs/{name}", routes.head_blob),
        ("GET", "/metrics", routes.metrics_text),
    ]:
        router.add_api_route(path, handler, methods=[method])
    app.include_router(router)
    add_error_answers(app, metrics)
    app.add_middleware(Traffic, count=metrics.count_bytes)
    return app


async def _expire_forever(intake: Intake) -> None:
    """Let go of old results, uploads and jobs, every minute."""
    while True:
        try:
            intake.expire()
        except Exception:
            log.exception("old jobs could not be cleared away")
        await asyncio.sleep(EXPIRY_SECONDS)
