"""The server of the desk: clients that wait, that send too much, and the command that starts it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import httpx
import pytest
from certificates import certify
from command_line import typed
from fastapi import FastAPI
from keeper import ends_with_us
from uvicorn.server import ServerState

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.desk import DeskSettings, make_app, serving
from pipelit_agents.desk.serving import serve, server_config
from pipelit_agents.errors import ConfigurationError

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def served(app: FastAPI, settings: DeskSettings) -> AsyncIterator[tuple[Any, set[Any]]]:
    """The protocol on a free port: its address, and its connections."""
    config = server_config(app, settings)
    config.load()
    made, state = cast(Any, config.http_protocol_class), ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: made(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[:2], state.connections
    finally:
        server.close()
        for each in list(state.connections):
            each.transport.abort()


async def answered(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends; empty if it was cut off."""
    try:
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""


@pytest.mark.slow
async def test_headers_have_a_time(pipelit: Pipelit) -> None:
    """Who sends nothing, or a byte now and then, is cut off: first, and after an answer."""
    settings = DeskSettings(receive_timeout=0.1, _env_file=None)
    async with served(make_app(pipelit, settings), settings) as (address, _):
        for first, sent in ((b"", b""), (b"", b"GET /health HTTP/1.1\r\n"), (HEALTH, b"GET /")):
            reader, writer = await asyncio.open_connection(*address)
            if first:
                writer.write(first)
                assert b"200 OK" in await reader.readuntil(b'"ok"}')
            writer.write(sent)
            # The server's own limit for idle connections is a minute here.
            assert await answered(reader) == b""
            writer.close()


async def test_what_is_answered_isnt_cut_off(pipelit: Pipelit) -> None:
    """The time is for headers only: it ends with them, for each request."""
    settings = DeskSettings(receive_timeout=60, _env_file=None)
    async with served(make_app(pipelit, settings), settings) as (address, connections):
        reader, writer = await asyncio.open_connection(*address)
        for _ in range(3):
            writer.write(HEALTH)
            assert b"200 OK" in await reader.readuntil(b'"ok"}')
            (connection,) = connections
            assert connection.waiting is None
        writer.close()


async def test_one_address_hasnt_all_connections(pipelit: Pipelit) -> None:
    """A client gets a quarter of the connections, and a trusted proxy all of them."""
    for proxies, most in ((), 2), (("127.0.0.0/8",), 5):
        settings = DeskSettings(
            max_connections=8, trusted_proxies=proxies, receive_timeout=60, _env_file=None
        )
        async with served(make_app(pipelit, settings), settings) as (address, _):
            opened = [await asyncio.open_connection(*address) for _ in range(5)]
            for _, writer in opened:
                writer.write(HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            answers = await asyncio.gather(*(answered(reader) for reader, _ in opened))
            for _, writer in opened:
                writer.close()
        assert sum(b"200 OK" in each for each in answers) == most


async def test_large_headers_are_answered(pipelit: Pipelit) -> None:
    """Headers above the limit get 431, and endless ones end the connection."""
    settings = DeskSettings(_env_file=None)
    async with served(make_app(pipelit, settings), settings) as (address, _):
        for size, status in ((20_000, b"431"), (200_000, b"400")):
            reader, writer = await asyncio.open_connection(*address)
            head = HEALTH[:-2] + b"Connection: close\r\nX: " + b"x" * size
            writer.write(head + (b"\r\n\r\n" if status == b"431" else b""))
            assert (await answered(reader)).split(b" ")[1:2] in ([status], [])
            writer.close()


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is complete but not taken keeps no connection, after the server closed it."""
    monkeypatch.setattr(serving, "SEND_TIMEOUT", 0.05)
    settings, close = DeskSettings(_env_file=None), [(b"connection", b"close")]
    written, lost = asyncio.Event(), asyncio.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": close})
        await send({"type": "http.response.body", "body": b"x" * 20_000_000})
        written.set()

    async with served(cast(FastAPI, large), settings) as (address, connections):
        with socket.create_connection(address) as client:
            client.sendall(HEALTH)
            await written.wait()
            (connection,) = connections
            assert connection.transport.is_closing()
            monkeypatch.setattr(connection, "connection_lost", lambda _: lost.set())
            await asyncio.wait_for(lost.wait(), 20)


async def test_what_isnt_http_fails_nowhere(
    pipelit: Pipelit, caplog: pytest.LogCaptureFixture
) -> None:
    """After an answer too, a stranger gets no traceback into the log, nor advice for operators."""
    settings, failed = DeskSettings(_env_file=None), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
    post = HEALTH.replace(b"GET /health", b"POST /api/v1/users")[:-2]
    async with served(make_app(pipelit, settings), settings) as (address, _):
        for head, then in (
            (HEALTH, b"\0\r\n\r\n"),
            (post + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"),
            (post + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n"),
        ):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(head)
            found = await reader.readuntil(b"}")
            writer.write(then)
            found += await answered(reader)
            assert found.count(b"HTTP/1.1 ") == (2 if head is HEALTH else 1)
            writer.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEALTH[:-2] + b"Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert b"200 OK" in await answered(reader)
        writer.close()
    assert not failed
    assert {each.getMessage() for each in caplog.records if each.name == "uvicorn.error"} == {
        "Invalid HTTP request received."
    }


async def test_what_follows_a_refused_framing_is_no_request(
    pipelit: Pipelit,
) -> None:
    """Where a proxy and the server may see different ends of a body, the connection ends."""
    settings = DeskSettings(_env_file=None)
    with_both = HEALTH.replace(b"GET", b"POST")[:-2] + b"Content-Length: 5\r\n"
    with_both += b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with served(make_app(pipelit, settings), settings) as (address, _):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(with_both + HEALTH)
        found = await answered(reader)
        assert (found.count(b"HTTP/1.1 "), found.split(b" ")[1]) == (1, b"400")
        writer.close()


async def test_a_network_of_one_customer_is_one_source(pipelit: Pipelit) -> None:
    """Whoever has many IPv6 addresses of one network has one share of the connections."""
    settings = DeskSettings(max_connections=8, _env_file=None)
    config = server_config(make_app(pipelit, settings), settings)
    config.load()
    state, aborted = ServerState(), []
    for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"):
        transport = Mock(spec=asyncio.Transport)
        transport.get_extra_info = {"peername": (address, 1), "sockname": ("::1", 1)}.get
        protocol = cast(Any, config.http_protocol_class)(config, state, {})
        protocol.connection_made(transport)
        aborted.append(transport.abort.called)
        protocol.connection_lost(None) if transport.abort.called else None
    for each in list(state.connections):
        each.connection_lost(None)
    assert aborted == [False, False, True, False]


async def test_all_connections_are_answered(pipelit: Pipelit) -> None:
    """As many as the setting says, also if that is one."""
    settings = DeskSettings(max_connections=1, _env_file=None)
    async with served(make_app(pipelit, settings), settings) as (address, _):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(HEALTH)
        assert b"200 OK" in await reader.readuntil(b"}")
        writer.close()


@pytest.mark.slow
async def test_a_handshake_is_bounded_too(pipelit: Pipelit, tmp_path: Path) -> None:
    """Who begins no TLS has a share of the connections, and a time; others are answered."""
    certificate = certify(tmp_path)
    settings = DeskSettings(
        max_connections=8, receive_timeout=0.2, ssl_certfile=certificate, _env_file=None
    )
    async with served(make_app(pipelit, settings), settings) as (address, connections):
        silent = [await asyncio.open_connection(*address) for _ in range(4)]
        # Two are refused at once, and two when their time is over.
        ended = [asyncio.create_task(answered(reader)) for reader, _ in silent]
        await asyncio.gather(*ended[2:])
        assert len(connections) <= 2
        assert await asyncio.gather(*ended) == [b""] * 4
        trusted = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection(
            *address, ssl=trusted, server_hostname="localhost"
        )
        writer.write(HEALTH[:-2] + b"Connection: close\r\n\r\n")
        assert b"200 OK" in await answered(reader)
        for _, each in (*silent, (reader, writer)):
            each.close()


def test_a_certificate_that_cant_be_used(pipelit: Pipelit, tmp_path: Path) -> None:
    """The error names the setting."""
    (tmp_path / "wrong.pem").write_text("no certificate")
    settings = DeskSettings(ssl_certfile=tmp_path / "wrong.pem", _env_file=None)
    with pytest.raises(ConfigurationError, match="SSL_CERTFILE"):
        server_config(make_app(pipelit, settings), settings)


def test_an_address_that_cant_be_listened_on(pipelit: Pipelit, tmp_path: Path) -> None:
    """The error names the address and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = DeskSettings(_env_file=None, port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match="--port"):
            serve(make_app(pipelit, settings), settings)


@pytest.mark.slow
def test_the_command_refuses_to_send_keys_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Without TLS it listens on this machine only; an error is one line, or one document."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FIELD_ENCRYPTION_KEY", key)
    monkeypatch.setenv("PIPELIT_DATABASE_URL", f"sqlite:///{tmp_path / 'agents.db'}")
    with Pipelit.from_env() as pipelit:
        pipelit.create_schema()
    done = typed("desk", "--host", "0.0.0.0", "--json")  # noqa: S104 - it is refused
    assert done.exit_code == 1
    assert "--behind-proxy" in done.output


@pytest.mark.process
def test_the_command_serves_until_it_is_stopped(tmp_path: Path) -> None:
    """It prints its address and the token, over TLS; neither its log nor a later start has it."""
    certificate = certify(tmp_path)
    kept = {name: each for name, each in os.environ.items() if not name.startswith("PIPELIT_")}
    environment = kept | {
        "FIELD_ENCRYPTION_KEY": Keyring.generate_key(),
        "PIPELIT_DATABASE_URL": f"sqlite:///{tmp_path / 'agents.db'}",
    }
    with Pipelit(
        database_url=environment["PIPELIT_DATABASE_URL"],
        encryption_keys=[environment["FIELD_ENCRYPTION_KEY"]],
    ) as pipelit:
        pipelit.create_schema()
        words = ["desk", "--json", "--port", "0", "--host", "localhost"]
        words += ["--ssl-certfile", str(certificate)]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipelit_agents.cli", *words],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        ends_with_us(process)
        assert process.stdout
        printed = json.loads(b"".join(iter(process.stdout.readline, b"}\n")) + b"}")
        token = {"Authorization": f"Bearer {printed['set_up_token']}"}
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=printed["address"], verify=trusted) as client:
            assert client.get("/ready").json() == {"status": "ok"}
            refused = client.get("/api/v1/me", headers=token)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert "strict-transport-security" in refused.headers
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
    assert "plit_setup" not in (tmp_path / "log").read_text()
    assert "GET" in (tmp_path / "log").read_text()
