"""Who may use the endpoint: named keys, compared in constant time."""

import hmac
import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

log = logging.getLogger("velocity")
VARIABLE = "VELOCITY_API_KEY"
MIN_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class KeysError(ValueError):
    """The keys cannot be used as they are; the message says where and what to do."""


@dataclass(frozen=True)
class Key:
    """A key and until when it holds."""

    name: str
    secret: str
    expires: datetime | None = None

    def __repr__(self) -> str:
        """Leave the secret out of logs and tracebacks."""
        return f"Key({self.name!r})"


@dataclass(frozen=True)
class Keys:
    """All keys. `chosen` if an operator gave them, `generated` if this start made the only one."""

    keys: tuple[Key, ...]
    chosen: bool
    generated: bool = False

    def find(self, presented: str) -> Key | None:
        """Return the key with this secret, expired or not. Every key is compared, so time tells nothing."""
        found = None
        given = presented.encode("utf-8", "surrogateescape")
        for key in self.keys:
            if hmac.compare_digest(key.secret.encode(), given):
                found = key
        return found


def is_expired(key: Key) -> bool:
    """Whether the key's day has come."""
    return key.expires is not None and datetime.now(timezone.utc) >= key.expires


def load_keys(data: Path, file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Return the keys of the environment and of `file`; without any, the one in `data`, made now if there is none.

    `file` is JSON, `{"name": {"key": "...", "expires": "2027-01-01"}}`; the expiry (UTC) may be left out.
    Raises `KeysError`.
    """
    keys = []
    if environment.get(VARIABLE):
        keys.append(_checked("default", environment[VARIABLE], None, f"the environment's {VARIABLE}"))
    if file is not None:
        keys += _read(file)
    secrets_seen = [key.secret for key in keys]
    if len(set(secrets_seen)) < len(keys) or len({key.name for key in keys}) < len(keys):
        raise KeysError(f"two keys have the same name or the same secret: change one in {file} or {VARIABLE}")
    if keys:
        return Keys(tuple(keys), chosen=True)
    kept = data / "key"
    generated = not kept.is_file()
    if generated:
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as new:
            new.write(secrets.token_urlsafe(32))
    secret = kept.read_text(encoding="utf-8").strip()
    return Keys((_checked("default", secret, None, str(kept)),), chosen=False, generated=generated)


def _read(file: Path) -> list[Key]:
    try:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            log.warning("other accounts of this machine may read the keys in %s: chmod 600 it", file)
        entries = json.loads(file.read_text(encoding="utf-8"))
        found = [(name, entry["key"], entry.get("expires")) for name, entry in entries.items()]
    except OSError as error:
        raise KeysError(f"the keys file {file} cannot be read ({error}): check --keys") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        form = '{"name": {"key": "...", "expires": "2027-01-01"}}'
        raise KeysError(f"the keys file {file} is not of the form {form} ({type(error).__name__})") from error
    if not found:
        raise KeysError(f"the keys file {file} holds no key: add one, or leave --keys out")
    return [_checked(name, secret, expires, f"{name!r} in {file}") for name, secret, expires in found]


def _checked(name: str, secret: object, expires: object, where: str) -> Key:
    if not _NAME.fullmatch(name):
        raise KeysError(f"the key {where} has a name with other characters than letters, digits and _.-")
    if not isinstance(secret, str) or len(secret) < MIN_LENGTH or not secret.isascii() or not secret.isprintable():
        message = f"the key {where} is no key: it takes {MIN_LENGTH} or more ASCII characters"
        raise KeysError(message + '; `python -c "import secrets; print(secrets.token_urlsafe(32))"` makes one')
    if expires is None:
        return Key(name, secret)
    try:
        when = datetime.fromisoformat(str(expires))
    except ValueError as error:
        raise KeysError(f"the key {where} expires at {expires!r}, which is no date like 2027-01-01") from error
    return Key(name, secret, when if when.tzinfo else when.replace(tzinfo=timezone.utc))
