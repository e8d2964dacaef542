"""Where endpoints come from, and that no mistake in their settings tells the key."""

import json
import traceback

import pytest
from velocity_nodes.remote.client.settings import FILE, Endpoint, SettingsError, find_endpoint

KEY = "sk-very-secret"
STUDIO = {"studio": {"url": "https://studio.example:8288/", "key": KEY}}


def found(name: str, folder, text: str | bytes | dict | None = None, **environment: str) -> Endpoint | None:
    if text is not None:
        raw = text if isinstance(text, bytes) else (json.dumps(text) if isinstance(text, dict) else text).encode()
        (folder / FILE).write_bytes(raw)
    return find_endpoint(name, folder, environment)


def refused(*arguments, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        found(*arguments, **environment)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert KEY not in shown
    return str(caught.value)


def test_from_the_environment(tmp_path):
    endpoint = found("default", tmp_path, VELOCITY_ENDPOINT=" http://127.0.0.1:8288/ ", VELOCITY_API_KEY=f"{KEY}\n")
    assert endpoint == Endpoint("default", "http://127.0.0.1:8288", KEY)
    assert found("default", tmp_path, {"default": {"url": "http://other", "key": "k"}}).url == "http://other"
    environment = {"VELOCITY_ENDPOINT": "http://here", "VELOCITY_API_KEY": "k"}
    assert found("default", tmp_path, **environment).url == "http://here", "the environment is nearer than the file"
    assert found("studio", tmp_path, STUDIO, **environment).url == "https://studio.example:8288"


def test_from_the_file(tmp_path):
    entry = {"url": "https://[::1]:9/base", "key": KEY, "certificate": "c.pem", "exact": False}
    endpoint = found("box", tmp_path, {"box": entry})
    assert endpoint == Endpoint("box", "https://[::1]:9/base", KEY, "c.pem", False)
    assert found("studio", tmp_path, STUDIO).exact
    assert found("studio", tmp_path, b"\xef\xbb\xbf" + json.dumps(STUDIO).encode()).key == KEY, "saved by Notepad"


def test_no_endpoint_at_all(tmp_path):
    assert found("default", tmp_path) is None
    assert found("default", tmp_path / "no folder") is None
    assert found("default", tmp_path, STUDIO) is None


def test_the_key_is_not_in_what_is_printed():
    endpoint = Endpoint("studio", "http://host", KEY)
    assert KEY not in f"{endpoint} {endpoint!r} {[endpoint]}"


def test_an_unknown_name_is_told_which_there_are(tmp_path):
    message = refused("attic", tmp_path, STUDIO | {"cellar": {}})
    for part in ("'attic'", "studio, cellar", str(tmp_path / FILE), '"url"'):
        assert part in message
    assert "has none" in refused("attic", tmp_path, {})


@pytest.mark.parametrize("name", ["http://10.0.0.5:8288", f"https://me:{KEY}@host/"])
def test_an_address_in_the_widget_belongs_into_the_file(tmp_path, name):
    message = refused(name, tmp_path, STUDIO)
    assert "takes a name" in message
    assert str(tmp_path / FILE) in message
    assert name not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "5",
        "null",
        '{"studio": "http://x"}',
        f'{{"studio": {{"key": "{KEY}", }}',
        b"\xff\xfe\x00",
        "{'a'}",
    ],
)
def test_a_corrupt_file_is_named(tmp_path, text):
    for name in ("studio", "default"):
        message = refused(name, tmp_path, text)
        assert str(tmp_path / FILE) in message
        assert "{name: {url, key}}" in message


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        5,
        "127.0.0.1:8288",
        "studio.example",
        "ftp://host",
        "file:///etc/passwd",
        "ws://host",
        "http://",
        "http:///path",
        "http://[::1",
        "http://host:port",
        "http://host:99999",
        f"http://user:{KEY}@host",
        f"http://{KEY}@host",
        f"http://host/?key={KEY}",
        "http://host/#x",
        KEY,
    ],
)
def test_only_plain_http_addresses(tmp_path, url):
    message = refused("box", tmp_path, {"box": {"url": url, "key": KEY}})
    assert "http:// or https://" in message
    assert "'box'" in message


@pytest.mark.parametrize("key", [None, "", "  ", f"{KEY}\n{KEY}", f"{KEY}\x00", KEY + "ä"])
def test_a_key_that_is_none(tmp_path, key):
    message = refused("box", tmp_path, {"box": {"url": "http://host", "key": key}})
    assert "key" in message
    assert "'box'" in message


def test_an_address_without_a_key_in_the_environment(tmp_path):
    assert "VELOCITY_API_KEY" in refused("default", tmp_path, VELOCITY_ENDPOINT="http://127.0.0.1:8288")


@pytest.mark.parametrize("certificate", [5, ["c.pem"], True])
def test_a_certificate_that_is_no_file(tmp_path, certificate):
    assert "certificate" in refused(
        "box", tmp_path, {"box": {"url": "https://host", "key": KEY, "certificate": certificate}}
    )


@pytest.mark.parametrize("patience", ["long", -1, 1e9, None, [1]])
def test_a_patience_that_is_no_number_of_seconds(tmp_path, patience):
    assert "patience_seconds" in refused(
        "box", tmp_path, {"box": {"url": "https://host", "key": KEY, "patience_seconds": patience}}
    )


def test_no_endpoint_is_called_local(tmp_path):
    """Its times would be taken for this machine's."""
    (tmp_path / "endpoints.json").write_text('{"local": {"url": "http://127.0.0.1:1", "key": "k"}}')
    with pytest.raises(SettingsError, match="stands for this machine: rename it"):
        find_endpoint("local", tmp_path, {})
