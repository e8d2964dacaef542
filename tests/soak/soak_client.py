"""A user's side that can be killed: runs its jobs through the real client, and notes what happens to them in a file.

`python soak_client.py plan.json`. Started again with the same plan it goes on as a restarted ComfyUI with the same
prompt does: the same manifest under the same key.
"""

import asyncio
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # last: our `nodes` folder would hide ComfyUI's nodes.py

from dev.host import import_pack  # noqa: E402

import_pack()

from velocity_nodes.remote.client.client import EndpointClient, EndpointError  # noqa: E402
from velocity_nodes.remote.client.run_job import JobRun  # noqa: E402
from velocity_nodes.remote.client.settings import Endpoint  # noqa: E402

DONE, CANCELLING, CANCELLED, FAILED = "done", "cancelling", "cancelled", "failed"
ENDED = {DONE, CANCELLED, FAILED}
KNOWN, TOLD, WAITS, RECONNECTING = "known", "told", "waits", "reconnecting"
CANCEL_AGAIN_SECONDS = 0.2  # what a restarted client gives a job that the user has cancelled before


class Notes:
    """One JSON line for each thing that happened to a job, on its way to the disk before anything else happens."""

    def __init__(self, file: Path) -> None:
        self.past: dict[int, dict[str, dict]] = defaultdict(dict)
        for note in read_notes(file.read_bytes() if file.is_file() else b""):
            self.past[note["job"]][note["what"]] = note
        self._file = file.open("ab", buffering=0)
        self._file.write(b"\n")  # ends the line in which the process before this one was killed

    def add(self, job: int, what: str, **more: Any) -> None:
        """Write a line."""
        self._file.write(json.dumps({"job": job, "what": what, **more}).encode() + b"\n")


def read_notes(lines: bytes) -> Iterator[dict[str, Any]]:
    """Yield the notes; a line that a kill has cut off is none."""
    for line in lines.split(b"\n"):
        try:
            yield json.loads(line)
        except ValueError:
            pass


class TellingClient(EndpointClient):
    """Remembers which jobs the endpoint has been told to cancel or to release."""

    told = False

    async def delete(self, job: str) -> None:
        """Cancel or release the job."""
        await super().delete(job)
        self.told = True


class SoakClient:
    """Runs the jobs of a plan, some at once."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan, self.notes = plan, Notes(Path(plan["notes"]))
        self.address = Endpoint("soak", plan["url"], plan["key"], patience_seconds=plan["patience_seconds"])
        folder = Path(plan["recipes"])
        self.manifests = json.loads((folder / "manifests.json").read_text(encoding="utf-8"))
        self.blobs = {file.stem: file.read_bytes() for file in folder.glob("*.blob")}

    async def run(self) -> None:
        """Run what an earlier process of this plan has not."""
        waiting = (job for job in self.plan["jobs"] if not self._is_over(self.notes.past[job["number"]]))

        async def work() -> None:
            for job in waiting:
                await asyncio.sleep(job["pause"])
                async with TellingClient(self.address) as client:
                    await self._run_job(client, job)

        await asyncio.gather(*(work() for _ in range(self.plan["at_once"])))

    async def _run_job(self, client: TellingClient, job: dict[str, Any]) -> None:
        number, past = job["number"], self.notes.past[job["number"]]
        run = JobRun(client, lambda kind, data: self._tell(number, run, kind), self.address.patience_seconds)
        run.transfer.job = past.get(KNOWN, {}).get("id", "")
        cancelled = CANCELLING in past
        if not ENDED & set(past) and not (cancelled and run.transfer.job):
            seconds = CANCEL_AGAIN_SECONDS if cancelled else job["cancel_after"]
            cancelled = await self._run_or_cancel(run, job, seconds)
        if TOLD not in past:
            await run.cancel()  # releases the result of a job that is done
            if client.told:
                self.notes.add(number, TOLD)
        if cancelled:
            self.notes.add(number, CANCELLED)

    def _is_over(self, past: dict[str, dict]) -> bool:
        """Whether nothing is left to be done for a job, as far as it is known which one it is at the endpoint."""
        return bool(ENDED & set(past)) and (TOLD in past or KNOWN not in past)

    async def _run_or_cancel(self, run: JobRun, job: dict[str, Any], seconds: float | None) -> bool:
        """Run a job to its end; return whether it was not there after so many seconds, as the user then cancels."""
        running = asyncio.create_task(self._run_to_its_end(run, job))
        await asyncio.wait({running}, timeout=seconds)
        if running.done():
            running.result()
            return False
        self.notes.add(job["number"], CANCELLING)
        running.cancel()
        await asyncio.wait({running})
        return True

    async def _run_to_its_end(self, run: JobRun, job: dict[str, Any]) -> None:
        manifest = {**self.manifests[job["recipe"]], "key": job["key"]}
        while True:
            try:
                data = await run.run(manifest, self.blobs)
            except EndpointError as error:
                if error.retry_after is None:
                    self.notes.add(job["number"], FAILED, why=f"{error.code}: {error}")
                    return
                self.notes.add(job["number"], WAITS, why=str(error))
                await asyncio.sleep(error.retry_after)
            else:
                self._know(job["number"], run)
                self.notes.add(job["number"], DONE, sha256=hashlib.sha256(data).hexdigest())
                return

    def _tell(self, number: int, run: JobRun, kind: str) -> None:
        self._know(number, run)
        if kind == RECONNECTING:
            self.notes.add(number, RECONNECTING)

    def _know(self, number: int, run: JobRun) -> None:
        """Note under which id the endpoint has the job, once that is known."""
        past = self.notes.past[number]
        if run.transfer.job and past.get(KNOWN, {}).get("id") != run.transfer.job:
            past[KNOWN] = {"id": run.transfer.job}
            self.notes.add(number, KNOWN, id=run.transfer.job)


if __name__ == "__main__":
    asyncio.run(SoakClient(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).run())
