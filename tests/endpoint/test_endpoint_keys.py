"""Keys: where they come from, how long they hold, and that they are never shown."""

import json
import os
import stat

import pytest
from velocity_nodes.remote.endpoint.admission.refusal import Refusal
from velocity_nodes.remote.endpoint.api.gate import Gate, RateLimit
from velocity_nodes.remote.endpoint.api.keys import Key, Keys, KeysError, is_expired, load_keys

SECRET, OTHER = "secret-of-the-first", "secret-of-the-second"


def write(folder, entries):
    file = folder / "keys.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries), encoding="utf-8")
    return file


def test_a_key_is_made_once_and_kept_private(tmp_path):
    first, second = load_keys(tmp_path, None, {}), load_keys(tmp_path, None, {})
    assert (first.generated, second.generated, first.chosen) == (True, False, False)
    assert first.keys == second.keys and len(first.keys[0].secret) >= 32
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_keys_come_from_the_environment_and_a_file(tmp_path):
    file = write(tmp_path, {"studio": {"key": OTHER, "expires": "2999-01-01"}, "old": {"key": "o" * 16}})
    keys = load_keys(tmp_path, file, {"VELOCITY_API_KEY": SECRET})
    assert keys.chosen and not (tmp_path / "key").exists()
    gate = Gate(keys, 50, 500)
    assert gate.owner(f"Bearer {SECRET}") == "default"
    assert gate.owner(f"bearer {OTHER}") == "studio"
    for header in ("", "Bearer", f"Basic {SECRET}", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", "Bearer \xe9\udcff"):
        with pytest.raises(Refusal, match="key"):
            gate.owner(header)
    assert SECRET not in repr(keys) and OTHER not in repr(keys)


@pytest.mark.parametrize("expires", ["2020-01-01", "2020-01-01T10:00:00+02:00"])
def test_an_expired_key_is_named_to_who_has_it(tmp_path, expires):
    keys = load_keys(tmp_path, write(tmp_path, {"studio": {"key": OTHER, "expires": expires}}), {})
    assert is_expired(keys.keys[0])
    with pytest.raises(Refusal, match="'studio' expired"):
        Gate(keys, 50, 500).owner(f"Bearer {OTHER}")


@pytest.mark.parametrize(
    "entries",
    [
        "{",
        "[]",
        {},
        {"a": SECRET},
        {"a": {}},
        {"a": {"key": "short"}},
        {"a": {"key": 12345678901234567890}},
        {"a": {"key": "k" * 20 + "\u00e9"}},
        {"a": {"key": "k" * 20 + "\n"}},
        {"a b": {"key": SECRET}},
        {"a": {"key": SECRET, "expires": "soon"}},
        {"a": {"key": SECRET}, "b": {"key": SECRET}},
        {"default": {"key": OTHER}},
    ],
)
def test_wrong_keys_files_are_refused(tmp_path, entries):
    environment = {"VELOCITY_API_KEY": SECRET} if "default" in entries else {}
    with pytest.raises(KeysError, match="key"):
        load_keys(tmp_path, write(tmp_path, entries), environment)


def test_a_bucket_fills_again_with_time():
    limit = RateLimit(rate=2.0, burst=3)
    assert [limit.wait("a", now=0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limit.wait("b", now=0.0) == 0.0
    assert limit.wait("a", now=0.5) == 0.0
    assert limit.wait("a", now=0.5) == 0.5
    assert [limit.wait("a", now=100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_keys_file_that_others_can_read_is_told(tmp_path, caplog, mode, warned):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"anna": {"key": "k" * 16}}))
    file.chmod(mode)
    load_keys(tmp_path, file, {})
    assert ("chmod 600" in caplog.text) is warned


def test_wrong_keys_are_told_now_and_then(caplog):
    gate = Gate(Keys((Key("anna", "k" * 16),), chosen=True), 1000.0, 1000)
    for _ in range(250):
        with pytest.raises(Refusal):
            gate.owner("Bearer wrong")
    assert [record.args[0] for record in caplog.records] == [1, 10, 100]
    assert "wrong" not in caplog.text, "what was presented may be nearly right"
