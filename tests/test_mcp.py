"""An agent's tools over MCP, with the SDK's own client and a real server process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from test_cli import Run, folder, ready, run

from pipelit_agents import Pipelit

__all__ = ["folder", "ready", "run"]
BACKENDS = False
COMMAND = ["-m", "pipelit_agents.cli", "mcp"]


@asynccontextmanager
async def client(folder: Path, *words: str) -> AsyncIterator[ClientSession]:
    """A client that has started the server, as an MCP host does."""
    server = StdioServerParameters(
        command=sys.executable, args=[*COMMAND, *words], cwd=str(folder), env=dict(os.environ)
    )
    async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as made:
        await made.initialize()
        yield made


async def test_a_client_finds_three_tools_and_uses_them(ready: Run, folder: Path) -> None:
    """It lists them with their schemas, gets a code that verifies, and checks a peer's."""
    async with client(folder, "agent_writer") as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert list(tools) == ["get_totp_code", "verify_peer", "create_agent_user"]
        assert list(tools["get_totp_code"].input_schema["properties"]) == ["audience"]
        got = await session.call_tool("get_totp_code", {"audience": "agent_editor"})
        with Pipelit.from_env() as pipelit:
            editor = pipelit.agent("agent_editor")
            editor.verify_peer("agent_writer", got.content[0].text)  # type: ignore[union-attr]
            code = editor.totp_code(audience="agent_writer").code
        peer = {"username": "agent_editor", "code": code}
        checked = await session.call_tool("verify_peer", peer)
        again = await session.call_tool("verify_peer", peer)
    assert checked.content[0].text.startswith("Verified")  # type: ignore[union-attr]
    assert (checked.is_error, again.is_error) == (False, True)
    assert "Don't trust" in again.content[0].text  # type: ignore[union-attr]


async def test_a_client_cant_say_whom_it_acts_as(ready: Run, folder: Path) -> None:
    """Made-up arguments and tools are refused, in words that a model can act on."""
    async with client(folder, "agent_writer", "--audience", "agent_editor") as session:
        for name, arguments, says in (
            ("get_totp_code", {"audience": "agent_editor", "agent": "agent_editor"}, "Extra"),
            ("get_totp_code", {"audience": "agent_other"}, "agent_editor"),
            ("delete_everything", {}, "no such tool"),
        ):
            refused = await session.call_tool(name, arguments)
            assert refused.is_error
            assert says in refused.content[0].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("agent", "says"),
    [("agent_nobody", "agents create agent_nobody"), ("alice", "is a person"), ("Agent", "lower")],
)
def test_who_cant_act_is_said_at_the_start(ready: Run, folder: Path, agent: str, says: str) -> None:
    """Before a client waits for a server that can do nothing."""
    done = subprocess.run(
        [sys.executable, *COMMAND, agent], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_it_ends_when_the_client_goes(ready: Run, folder: Path) -> None:
    """A closed standard input is the end, without a word."""
    done = subprocess.run(
        [sys.executable, *COMMAND, "agent_writer"],
        cwd=folder,
        input="",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_interrupt_ends_the_server(ready: Run, folder: Path) -> None:
    """Ctrl-C ends it while it waits for a client's next line."""
    command = [sys.executable, *COMMAND, "agent_writer"]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin
        assert server.stdout
        request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        assert server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == -signal.SIGINT
