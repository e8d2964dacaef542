"""An endpoint behind a proxy is reached when its settings say so, with our key and no other password."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from velocity_nodes.remote.client.client import EndpointClient
from velocity_nodes.remote.client.settings import Endpoint

from tests.remote.bad_endpoint import KEY, BadEndpoint


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy for plain HTTP on loopback: its address, and the first lines that it was sent."""
    lines: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        lines.append(line)
        method, address, version = line.split()
        host, path = address.removeprefix(b"http://").split(b"/", 1)
        there, back = await asyncio.open_connection(*host.decode().split(":"))
        back.write(b" ".join([method, b"/" + path, version]) + b"\r\nConnection: close\r\n" + rest)
        writer.write(await there.read())
        writer.close()
        back.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


@pytest.mark.parametrize(
    ("trust_env", "no_proxy", "through"), [(True, "", True), (False, "", False), (True, "127.0.0.1", False)]
)
def test_the_proxy_of_the_environment(trust_env, no_proxy, through, monkeypatch, tmp_path):
    passwords = tmp_path / "netrc"
    passwords.write_text("default login someone password else", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(passwords))

    async def play() -> None:
        async with proxy() as (address, lines), BadEndpoint().running() as endpoint:
            for name in ("http_proxy", "HTTP_PROXY"):
                monkeypatch.setenv(name, address)
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.setenv(name, no_proxy)
            async with EndpointClient(Endpoint("test", endpoint.url, KEY, trust_env=trust_env)) as client:
                await client.delete("job-1")
            assert lines == ([f"DELETE {endpoint.url}/v1/jobs/job-1 HTTP/1.1".encode()] if through else [])
            (request,) = endpoint.of("delete")
            assert request.headers["Authorization"] == f"Bearer {KEY}"

    asyncio.run(asyncio.wait_for(play(), 30))
