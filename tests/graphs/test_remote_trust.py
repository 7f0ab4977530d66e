"""The certificates by which a remote child's server is checked: read once, and never wrongly."""

from __future__ import annotations

import asyncio
import multiprocessing
import ssl
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from certificates import certify, server_context

from pipelit_agents.graphs.remote_http import _TRUST, new_client

BACKENDS = False


@asynccontextmanager
async def serving(certificate: Path) -> AsyncIterator[str]:
    """A server over TLS that says "ok" to all."""
    context = server_context(certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"


async def said(url: str) -> str:
    """What the client of a remote child hears."""
    made = await asyncio.to_thread(new_client, url, {})
    async with made as client:
        return (await client.get("/")).text


async def test_a_server_gets_no_cookie_kept() -> None:
    """A server that sets many would otherwise fill the lead's memory, and slow each request."""
    async with await asyncio.to_thread(new_client, "https://agents.example", {}) as client:
        request = client.build_request("GET", "/")
        headers = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2; Domain=agents.example")]
        client.cookies.extract_cookies(httpx.Response(200, headers=headers, request=request))
        assert len(client.cookies) == 0
        assert "cookie" not in client.build_request("GET", "/").headers


@pytest.mark.slow
async def test_a_server_is_checked_by_the_certificates_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE decides at each call, also after its file or its value was changed."""
    ours, other = certify(tmp_path, "ours"), certify(tmp_path, "other")
    named = tmp_path / "authorities.pem"
    async with serving(ours) as url:
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await said(url)
        named.write_bytes(ours.read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(named))
        assert await asyncio.gather(*(said(url) for _ in range(20))) == ["ok"] * 20
        named.write_bytes(other.read_bytes() + b"\n")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await said(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(ours))
        assert await said(url) == "ok"
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await said(url)


async def test_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host name is compared with the certificate's, with a shared context too."""
    ours = certify(tmp_path, "ours")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours))
    async with serving(ours) as url:
        assert await said(url) == "ok"
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            await said(url.replace("localhost", "127.0.0.1"))


@pytest.mark.slow
async def test_many_event_loops_use_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads with loops of their own have the same certificates, and connections of their own."""
    ours = certify(tmp_path, "ours")
    monkeypatch.setenv("SSL_CERT_FILE", str(ours))
    async with serving(ours) as url:

        def several() -> list[str]:
            async def ask() -> list[str]:
                return [await said(url) for _ in range(5)]

            return asyncio.run(ask())

        with ThreadPoolExecutor(8) as pool:
            loop = asyncio.get_running_loop()
            jobs = [loop.run_in_executor(pool, several) for _ in range(8)]
            assert await asyncio.gather(*jobs) == [["ok"] * 5] * 8


def test_it_is_read_once() -> None:
    """All threads get the one context, whose protocols nobody writes again."""
    together = threading.Barrier(8)

    def read() -> ssl.SSLContext:
        together.wait()
        return _TRUST.context()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read(), range(8)))
    assert len(set(map(id, found))) == 1
    assert found[0].verify_mode is ssl.CERT_REQUIRED
    assert found[0].check_hostname


@pytest.mark.process
def test_a_forked_process_reads_its_own() -> None:
    """A child forked while another thread reads them doesn't wait for that thread for ever."""
    before = _TRUST.context()
    with _TRUST._lock:
        context = multiprocessing.get_context("fork")
        receive, send = context.Pipe(duplex=False)

        def look() -> None:
            send.send(_TRUST.context() is not before)

        process = context.Process(target=look)
        process.start()
        assert receive.poll(30)
        assert receive.recv() is True
        process.join(30)
    assert _TRUST.context() is before
