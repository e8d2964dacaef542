"""Requests to an endpoint as any program could make them, without the pack's client."""

import http.client
import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import torch
from velocity_nodes.remote.wire.blob import blob_name
from velocity_nodes.remote.wire.values import pack

from demo.tiny_flux.codecs import encode_prompt
from dev.endpoint import KEY
from dev.server import TINY_MODEL

FINAL = ("done", "failed", "cancelled")


class Answer:
    """Status, headers and body of an answer."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()

    @property
    def json(self) -> Any:
        """The body, which has to be JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict:
        """The error object, which has to be of the protocol's form."""
        error = self.json["error"]
        assert set(error) >= {"code", "message", "next"} and error["message"] and error["next"], error
        return error


class Raw:
    """A connection to the endpoint at `url`, kept open from request to request."""

    def __init__(self, url: str, key: str | None = KEY, timeout: float = 120) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
        self.headers = {"Authorization": f"Bearer {key}"} if key is not None else {}

    def __call__(self, method: str, path: str, body: Any = None, headers: dict | None = None) -> Answer:
        """Send one request; a body that is not bytes goes as JSON."""
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
        try:
            self.connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = Answer(self.connection.getresponse())
        except (http.client.HTTPException, OSError):
            self.connection.close()
            raise
        if answer.headers.get("Connection") == "close":
            self.connection.close()
        return answer

    def put(self, data: bytes, name: str | None = None) -> Answer:
        """Upload a blob, under its own name unless another is given."""
        return self("PUT", f"/v1/blobs/{name or blob_name(data)}", data)

    def run(self, manifest: dict, blobs: dict[str, bytes]) -> dict:
        """Submit, upload what is missing and return the job's state once it is over."""
        answer = self("POST", "/v1/jobs", manifest)
        assert answer.status == 200, answer.body
        for name in answer.json["missing"]:
            assert self.put(blobs[name]).status == 204
        return self.wait(answer.json["job"])

    def wait(self, job: str) -> dict:
        """Return the job's state once it is over."""
        self.events(job)
        return self("GET", f"/v1/jobs/{job}").json

    def events(self, job: str) -> list[tuple[str, dict]]:
        """Return the job's events up to the last."""
        return list(self.follow(job))

    def follow(self, job: str) -> Iterator[tuple[str, dict]]:
        """Yield the job's events as they come. The connection is of no more use if not all of them are read."""
        self.connection.request("GET", f"/v1/jobs/{job}/events", headers=self.headers)
        kind = ""
        for line in self.connection.getresponse():
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def tiny_job(seed: int, steps: int = 2, latent: torch.Tensor | None = None, **options: Any) -> tuple[dict, dict]:
    """Return a manifest for a KSampler on the tiny model, and its blobs by name.

    Without a `latent` it is zeros, which need no blob.
    """
    tokens, pooled = encode_prompt("a large red circle at the left on a blue background")
    latent = torch.zeros(1, 16, 16, 16) if latent is None else latent
    blobs: dict[str, bytes] = {}

    def add(data: bytes) -> str:
        blobs[blob_name(data)] = data
        return blob_name(data)

    # The seed makes the conditioning's tensor, and so its blob, one of its own.
    cuts = [pack([value], add) for value in ([[tokens + seed / 1e4, {"pooled_output": pooled}]], {"samples": latent})]
    sampler = {"seed": seed, "steps": steps, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    sampler |= {"model": ["1", 0], "positive": {"@cut": 0}, "negative": {"@cut": 0}, "latent_image": {"@cut": 1}}
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": TINY_MODEL, "weight_dtype": "default"}},
        "2": {"class_type": "KSampler", "inputs": sampler},
    }
    manifest = {"protocol": 1, "key": uuid.uuid4().hex, "graph": graph, "output": ["2", 0], "cuts": cuts}
    return {**manifest, "exact": True, "preview": True, "deadline_seconds": 0, **options}, blobs
