"""What an endpoint says can neither run in the page nor forge a line of the log."""

import pytest
from velocity_nodes.remote.client.answers import parse_error
from velocity_nodes.remote.client.errors import EndpointError
from velocity_nodes.remote.client.said import LONGEST, harmless


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("out of memory: 12 GB", "out of memory: 12 GB"),
        ("größer als 5 µs, 速度", "größer als 5 µs, 速度"),
        ("<img src=x onerror=alert(1)>", "‹img src=x onerror=alert(1)›"),
        ("one\nWARNING:root:two\r\nthree\tfour", "one WARNING:root:two  three four"),
        ("\x1b[31mred\x1b[0m \x07\x00\x9b", "[31mred [0m"),
        ("a\u2028b\u2029c\u202ed", "a b c d"),
        ("[[label|http://elsewhere]]", "[ [label|http://elsewhere]]"),
    ],
)
def test_harmless(said: str, shown: str):
    assert harmless(said) == shown


def test_long_words_are_cut():
    assert harmless("a" * 10**7) == "a" * LONGEST + "..."
    assert len(str(EndpointError("x", "m" * 10**6, "n" * 10**6))) < 3 * LONGEST


def test_errors_of_an_endpoint_are_made_harmless():
    body = b'{"error": {"code": "internal", "message": "<b>no</b>\\nERROR:root:forged", "next": "<script>1</script>"}}'
    for error in (parse_error(500, body, ""), parse_error(502, b"<html>\n<script>1</script>", "")):
        assert not set("<>\n") & set(str(error))


@pytest.mark.parametrize("status", [413, 502, 504])
def test_a_page_of_a_proxy_is_explained(status: int):
    said = str(parse_error(status, b"<html><head><title>nginx</title></head></html>", ""))
    assert f"HTTP {status}" in said and "A proxy on the way" in said
