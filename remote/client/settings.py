"""Where the endpoints are: the environment, or a private file in ComfyUI's user directory. Never a widget.

    VELOCITY_ENDPOINT=http://127.0.0.1:8288 VELOCITY_API_KEY=...      is called `default`
    USER/__velocity/endpoints.json: {"studio": {"url": "https://...", "key": "..."}}

ComfyUI does not serve folders that begin with two underscores.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

FILE = "endpoints.json"
HERE = "local"  # among the places whose times are kept


class SettingsError(ValueError):
    """An endpoint is not configured or wrongly; the message says where and how."""


@dataclass(frozen=True)
class Endpoint:
    """One endpoint. `certificate` is a file that its TLS certificate is checked against; without `exact` the endpoint
    may run equal jobs in one batch, which changes the last bits. `patience_seconds`: how long an endpoint that stopped
    answering in the middle of a job is given to come back. With `trust_env` it is reached through the proxy that the
    environment names (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)."""

    name: str
    url: str
    key: str
    certificate: str | None = None
    exact: bool = True
    patience_seconds: float = 30.0
    trust_env: bool = False

    def __repr__(self) -> str:
        """Leave the key out of logs and tracebacks."""
        return f"Endpoint({self.name!r}, {self.url!r})"


def find_endpoint(name: str, folder: Path, environment: Mapping[str, str] = os.environ) -> Endpoint | None:
    """Return the endpoint of this name, or None for `default` when none is configured at all.

    `folder` is the private folder. Raises `SettingsError` for an unknown name and for settings that can't be right.
    """
    if name == HERE:
        raise SettingsError(f"no endpoint may be called {HERE!r}, which stands for this machine: rename it in {FILE}")
    if name == "default" and environment.get("VELOCITY_ENDPOINT"):
        known = {"url": environment["VELOCITY_ENDPOINT"], "key": environment.get("VELOCITY_API_KEY")}
        return _endpoint(name, {**known, "trust_env": environment.get("VELOCITY_TRUST_ENV") == "1"})
    file = folder / FILE
    known = _read(file)
    if name in known:
        return _endpoint(name, known[name])
    if name == "default":
        return None
    example = '{"studio": {"url": "http://127.0.0.1:8288", "key": "..."}}'
    if "://" in name:  # not repeated, as it may hold a password
        raise SettingsError(f"the widget takes a name, and no address. Write the address into {file}: {example}")
    raise SettingsError(f"no endpoint is called {name!r}; {file} has {', '.join(known) or 'none'}. Add it: {example}")


def _read(file: Path) -> dict[str, dict]:
    if not file.is_file():
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8-sig"))  # Windows' Notepad puts a mark in front
        if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
            raise ValueError("it must be an object of objects")
    except ValueError as error:
        raise SettingsError(f"{file} is no JSON of the form {{name: {{url, key}}}}: {error}") from error
    return known


def _endpoint(name: str, entry: Mapping) -> Endpoint:
    url, key = str(entry.get("url") or "").strip().rstrip("/"), str(entry.get("key") or "").strip()
    if not _is_address(url):  # not repeated, as it may hold a password, or be the key in the wrong place
        raise SettingsError(
            f"the url of the endpoint {name!r} must begin with http:// or https://, with a host and no user, such as "
            "http://127.0.0.1:8288"
        )
    if not key:
        raise SettingsError(
            f"the endpoint {name!r} has no key: set VELOCITY_API_KEY or its key in {FILE} to the one that "
            "`velocity serve` printed"
        )
    if not key.isascii() or not key.isprintable():
        raise SettingsError(f"the key of the endpoint {name!r} holds characters that no key has; copy it again")
    certificate = entry.get("certificate")
    if not isinstance(certificate, (str, type(None))):
        raise SettingsError(f"the certificate of the endpoint {name!r} is the name of a file")
    patience = entry.get("patience_seconds", Endpoint.patience_seconds)
    if not isinstance(patience, (int, float)) or not 0 <= patience <= 3600:
        raise SettingsError(f"the endpoint {name!r} has patience_seconds {patience!r}; it is a number up to 3600")
    trust_env = entry.get("trust_env", False)
    if not isinstance(trust_env, bool):
        raise SettingsError(f"the endpoint {name!r} has trust_env {trust_env!r}; it is true or false")
    return Endpoint(name, url, key, certificate, entry.get("exact", True) is not False, float(patience), trust_env)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is none
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain
