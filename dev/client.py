"""Talks to a running ComfyUI over HTTP: queue a prompt in API format, wait for it, collect what it made."""

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.05
FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class PromptError(RuntimeError):
    """ComfyUI refused or failed a prompt. `details` is its answer, `interrupted` whether somebody stopped it."""

    def __init__(self, message: str, details: dict | None = None, interrupted: bool = False) -> None:
        super().__init__(message)
        self.details = details or {}
        self.interrupted = interrupted


@dataclass
class RunResult:
    """What one prompt made. `images` are files that live as long as the server's folder; `seconds` is ComfyUI's own
    clock from the start of the execution to its end; `cached` lists the nodes that did not have to run again."""

    prompt_id: str
    seconds: float
    images: list[Path] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    outputs: dict[str, dict] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)


class ComfyClient:
    """One ComfyUI server at `url` (no slash at the end) whose base directory is `folder`. `headers` go with all that is
    asked."""

    def __init__(self, url: str, folder: Path, headers: dict[str, str] | None = None) -> None:
        self.url = url
        self.folder = folder
        self.headers = headers or {}

    def run(self, prompt: dict, timeout: float = 600) -> RunResult:
        """Execute `prompt` (API format) and return its result after at most `timeout` seconds.

        Raises `PromptError` when it is refused, fails or is interrupted, and `TimeoutError` (after interrupting it).
        """
        return self.wait(self.submit(prompt), timeout)

    def submit(self, prompt: dict) -> str:
        """Queue `prompt` and return its id. Raises `PromptError` with the node errors when validation refuses it."""
        try:
            return self.post("/prompt", {"prompt": prompt})["prompt_id"]
        except urllib.error.HTTPError as error:
            answer = json.loads(error.read() or b"{}")
            raise PromptError(_refusal(answer), answer) from error

    def wait(self, prompt_id: str, timeout: float = 600) -> RunResult:
        """Return the result of a queued prompt; raises as `run` does."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry and any(name in FINAL_EVENTS for name, _ in entry["status"]["messages"]):
                return self._result(prompt_id, entry)
            time.sleep(POLL_SECONDS)
        self.interrupt()
        raise TimeoutError(f"the prompt was not done after {timeout} s and was interrupted; give it a longer timeout")

    def object_info(self) -> dict:
        """Return ComfyUI's description of every node it knows, by node id."""
        return self.get("/object_info")

    def interrupt(self) -> None:
        """Stop the prompt that is running."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Unload all models and forget all cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def get(self, path: str) -> dict:
        """Return the JSON answer of a GET. Raises `urllib.error.URLError`."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, None, self.headers), timeout=120) as answer:
            return json.load(answer)

    def post(self, path: str, body: object) -> dict:
        """Return the JSON answer (empty when there is none) of a POST. Raises `urllib.error.URLError`."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **self.headers})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"{}")

    def _result(self, prompt_id: str, entry: dict) -> RunResult:
        events = dict(entry["status"]["messages"])
        if "execution_error" in events:
            error = events["execution_error"]
            trace = "".join(error.get("traceback", []))
            where = f"node {error.get('node_id')} ({error.get('node_type')})"
            raise PromptError(
                f"{where}: {error.get('exception_type')}: {error.get('exception_message')}\n{trace}", error
            )
        if "execution_interrupted" in events:
            raise PromptError("the prompt was interrupted", events["execution_interrupted"], interrupted=True)
        seconds = (events["execution_success"]["timestamp"] - events["execution_start"]["timestamp"]) / 1000
        result = RunResult(prompt_id, seconds, outputs=entry["outputs"])
        result.cached = events.get("execution_cached", {}).get("nodes", [])
        for output in entry["outputs"].values():
            result.images += [
                self.folder / i["type"] / i["subfolder"] / i["filename"] for i in output.get("images", [])
            ]
            result.texts += [str(text) for text in output.get("text", [])]
        return result


def _refusal(answer: dict) -> str:
    error = answer.get("error") or {}
    lines = [f"ComfyUI refused the prompt: {error.get('message', answer)} {error.get('details', '')}".strip()]
    for node, problem in (answer.get("node_errors") or {}).items():
        for item in problem.get("errors", []):
            lines.append(f"  node {node} ({problem.get('class_type')}): {item.get('message')}: {item.get('details')}")
    return "\n".join(lines)
