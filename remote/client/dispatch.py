"""Sends one job to an endpoint and brings back its latent, or says that it is to run here."""

import asyncio
import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..wire.blob import BlobError, blob_name
from ..wire.model_names import model_names
from ..wire.values import UnshippableError, pack
from .accounts import Account, measure
from .client import EndpointClient, EndpointError
from .cut import CannotOffloadError, Cut
from .display import SamplerDisplay
from .history import History, Work
from .interruptible import answered, interruptible
from .local_models import find_models, start_hashing
from .options import RAISE, Options
from .result import latents
from .route import LOCAL, decide, queue_seconds
from .run_job import JobRun
from .settings import Endpoint

log = logging.getLogger("velocity")
HASHING_SECONDS = 0.1
CANCEL_SECONDS = 0.7  # an interrupt is to be felt within a second


@dataclass(frozen=True)
class RunHere:
    """The job is to run on this machine; `work` is then measured unless None."""

    reason: str
    work: Work | None = None


class Dispatcher:
    """One execution of one offloaded sampler. `folder` is the private folder of the settings."""

    def __init__(self, cut: Cut, options: Options, endpoint: Endpoint, folder: Path, display: SamplerDisplay) -> None:
        self.cut, self.options, self.endpoint, self.folder, self.display = cut, options, endpoint, folder, display
        self.history = History(folder)
        self.blobs: dict[str, bytes] = {}
        self.names = model_names(cut.graph)
        self.models = find_models(self.names)
        self.not_here = [name for name in self.names if name not in self.models]

    async def run(self, values: list[list]) -> list | RunHere:
        """Return the items of the sampler's output for the cut links' `values` (a list of items each).

        Raises ComfyUI's `InterruptProcessingException` after cancelling the job, and with `on_failure` `raise` an
        `EndpointError` or `CannotOffloadError`.
        """
        start = time.monotonic()
        try:
            packed = await asyncio.to_thread(self._pack, values)
            async with EndpointClient(self.endpoint) as client:
                work = self._work(packed)
                if self.options.route == "auto":
                    here = await self._route(client, work)
                    if here:
                        return here
                return await self._remote(client, packed, values, work, start)
        except CannotOffloadError as error:
            if self.options.route != "auto":
                raise
            return self._here(str(error))
        except (EndpointError, BlobError) as error:
            if getattr(error, "code", "") in ("unsupported_node", "missing_model"):
                history = History(self.folder)
                history.record_capabilities(self.endpoint.name, None)
                history.save()
            if self.options.on_failure == RAISE:
                raise
            if self.not_here:
                names = ", ".join(self.not_here)
                raise EndpointError("failed", f"{error} And {names} is not on this machine, to run here") from error
            return self._here(str(error))

    def _here(self, reason: str, work: Work | None = None) -> RunHere:
        log.warning("Offload: running locally: %s", reason)
        self.display.text(f"running locally: {reason}")
        return RunHere(reason, work)

    def _pack(self, values: list[list]) -> list[list]:
        def add(data: bytes) -> str:
            name = blob_name(data)
            self.blobs[name] = data
            return name

        packed = []
        for link, items in zip(self.cut.links, values, strict=True):
            try:
                packed.append(pack(items, add))
            except UnshippableError as error:
                raise CannotOffloadError(
                    f"what node {link[0]} makes can't be sent: {error}. Set route to local, or text_encoding to remote "
                    "if it comes from a text encoder"
                ) from error
        return packed

    def _work(self, packed: list[list]) -> Work:
        steps = [node["inputs"].get("steps") for node in self.cut.graph.values()]
        shapes = [
            item["samples"]["shape"]
            for kind, items in zip(self.cut.kinds, packed, strict=True)
            if kind == "LATENT"
            for item in items
            if isinstance(item, dict) and "shape" in (item.get("samples") or {})
        ]
        most_steps = max((number for number in steps if isinstance(number, int)), default=1)
        return Work(
            ", ".join(self.names),
            most_steps,
            sum(math.prod(shape[:1] + shape[2:]) for shape in shapes),
        )

    async def _route(self, client: EndpointClient, work: Work) -> RunHere | None:
        capabilities = self.history.capabilities(self.endpoint.name) or {}
        health = await answered(client.health(), self.endpoint)
        decision = decide(
            self.history,
            self.endpoint.name,
            work,
            sum(map(len, self.blobs.values())),
            queue_seconds(capabilities, health),
            warm=set(self.names) <= set(capabilities.get("warm", ())),
            can_run_here=not self.not_here,
        )
        log.info("Offload: %s: %s", decision.route, decision.reason)
        self.display.text(f"{decision.route}: {decision.reason}")
        return RunHere(decision.reason, work) if decision.route == LOCAL else None

    async def _remote(
        self, client: EndpointClient, packed: list[list], values: list[list], work: Work, start: float
    ) -> list:
        manifest = {
            "protocol": 1,
            "graph": self.cut.graph,
            "output": self.cut.output,
            "cuts": packed,
            "exact": self.endpoint.exact,
            "preview": True,
            "deadline_seconds": self.options.deadline_seconds,
        }
        text = json.dumps([self.history.client(), manifest], sort_keys=True)
        manifest["key"] = hashlib.sha256(text.encode()).hexdigest()[:32]
        job = JobRun(client, self.display.tell, self.endpoint.patience_seconds)
        hashing = start_hashing(self.models, self.folder)
        account = Account(self.folder, self.endpoint.url, manifest["key"], self.cut, packed, self.blobs)
        try:
            data = await self._interruptible(job, manifest)
            items = await asyncio.to_thread(latents, data, self.blobs.items(), self.cut, values)
        except BaseException as error:
            account.broken_off(error, job.transfer)
            raise
        await job.cancel()  # releases the result
        seconds = time.monotonic() - start
        measure(self.folder, self.endpoint.name, work, job.transfer, seconds)
        await asyncio.to_thread(hashing.join, HASHING_SECONDS)
        said = account.done(job.transfer, self.models)
        self.display.text("; ".join([f"done in {seconds:.1f} s on {self.endpoint.name}, {said}", *self.cut.stays]))
        return items

    async def _interruptible(self, job: JobRun, manifest: dict[str, Any]) -> bytes:
        seconds = self.options.deadline_seconds or math.inf
        late = EndpointError("deadline", f"not done after {seconds:g} s", "Raise deadline_seconds")
        try:
            return await interruptible(job.run(manifest, self.blobs), seconds, late)
        except BaseException:
            await job.cancel(CANCEL_SECONDS)
            raise
