"""What the endpoint tells Prometheus. A registry of its own, so that two endpoints may live in one process."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """All counters; the scheduler and the app count, `text` is what `GET /metrics` answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Gauge("velocity_jobs", "Jobs in the journal", ["state"], registry=self.registry)
        self.workers = Gauge("velocity_workers", "Workers", ["state"], registry=self.registry)
        self.queue = Gauge("velocity_queue_length", "Jobs that wait for a worker", registry=self.registry)
        self.accepted = Counter("velocity_accepted", "Jobs accepted", registry=self.registry)
        self.finished = Counter("velocity_finished", "Jobs that came to an end", ["state"], registry=self.registry)
        self.refusals = Counter("velocity_refusals", "Refused requests and jobs", ["code"], registry=self.registry)
        self.restarts = Counter("velocity_worker_restarts", "Workers started again", registry=self.registry)
        self.bytes_in = Counter("velocity_received_bytes", "Bytes of request bodies", registry=self.registry)
        self.bytes_out = Counter("velocity_sent_bytes", "Bytes of answers", registry=self.registry)
        self.seconds_queued = self._histogram("velocity_queued_seconds", "From the queue to a worker")
        self.seconds_running = self._histogram("velocity_running_seconds", "From a worker to the end")

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=_SECONDS, registry=self.registry)

    def count_bytes(self, received: int, sent: int) -> None:
        """Add bytes of bodies in either direction."""
        if received:
            self.bytes_in.inc(received)
        if sent:
            self.bytes_out.inc(sent)

    def text(self, jobs: dict[str, int], health: dict[str, Any]) -> bytes:
        """Return Prometheus' text form, with the current number of `jobs` by state and the scheduler's `health`."""
        for state, count in jobs.items():
            self.jobs.labels(state).set(count)
        self.queue.set(health["queued"])
        states = [worker["state"] for worker in health["workers"]]
        for state in ("starting", "ready", "busy", "failed"):
            self.workers.labels(state).set(states.count(state))
        return generate_latest(self.registry)
