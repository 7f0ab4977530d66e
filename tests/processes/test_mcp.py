"""An agent's tools over MCP, with the SDK's own client and a real server process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fresh
import pytest
from langchain_core.tools import tool
from test_cli import Run, folder, ready, run

from pipelit_agents import Pipelit
from pipelit_agents.errors import CodeRejected

if TYPE_CHECKING:
    from mcp import ClientSession

__all__ = ["folder", "ready", "run"]
BACKENDS = False


def command(*words: str) -> list[str]:
    """A server, in a process forked from one that has imported what it is made of."""
    return [*fresh.command(fresh.AGENTS, "pipelit_agents.tools.mcp"), "mcp", *words]


@asynccontextmanager
async def client(folder: Path, *words: str) -> AsyncIterator[ClientSession]:
    """A client that has started the server, as an MCP host does."""
    # Imported late, as it takes each test process a second, and one of them needs it.
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    program, *arguments = command(*words)
    server = StdioServerParameters(
        command=program, args=arguments, cwd=str(folder), env=dict(os.environ)
    )
    async with (
        stdio_client(server, errlog=sys.__stderr__) as (reading, writing),
        ClientSession(reading, writing) as made,
    ):
        await made.initialize()
        yield made


def on_the_wire(result: Any) -> Any:
    """A result by the names of the protocol, which are not those of each version of the SDK."""
    return result.model_dump(by_alias=True)


async def test_a_client_finds_three_tools_and_uses_them(ready: Run, folder: Path) -> None:
    """It lists them with their schemas, gets a code that verifies, and checks a peer's."""
    async with client(folder, "agent_writer") as session:
        tools = {tool["name"]: tool for tool in on_the_wire(await session.list_tools())["tools"]}
        assert list(tools) == ["get_totp_code", "verify_peer", "create_agent_user"]
        assert list(tools["get_totp_code"]["inputSchema"]["properties"]) == ["audience", "message"]
        got = await session.call_tool("get_totp_code", {"audience": "agent_editor"})
        with Pipelit.from_env() as pipelit:
            editor = pipelit.agent("agent_editor")
            editor.verify_peer("agent_writer", got.content[0].text)
            code = editor.totp_code(audience="agent_writer").code
        peer = {"username": "agent_editor", "code": code}
        checked = await session.call_tool("verify_peer", peer)
        again = await session.call_tool("verify_peer", peer)
    assert checked.content[0].text.startswith("Verified")
    assert [on_the_wire(each)["isError"] for each in (checked, again)] == [False, True]
    assert "Don't trust" in again.content[0].text


async def test_our_server_is_a_server_for_the_adapters(ready: Run, folder: Path) -> None:
    """In one environment with them: an agent's tools are listed, and its code verifies."""
    from langchain_mcp_adapters.client import MultiServerMCPClient

    program, *arguments = command("agent_writer")
    server: Any = {
        "transport": "stdio",
        "command": program,
        "args": arguments,
        "cwd": str(folder),
        "env": dict(os.environ),
    }
    tools = {each.name: each for each in await MultiServerMCPClient({"us": server}).get_tools()}
    assert list(tools) == ["get_totp_code", "verify_peer", "create_agent_user"]
    got = await tools["get_totp_code"].ainvoke({"audience": "agent_editor"})
    with Pipelit.from_env() as pipelit:
        pipelit.agent("agent_editor").verify_peer("agent_writer", got[0]["text"])


async def test_a_client_cant_say_whom_it_acts_as(ready: Run, folder: Path) -> None:
    """Made-up arguments and tools are refused, in words that a model can act on."""
    async with client(folder, "agent_writer", "--audience", "agent_editor") as session:
        for name, arguments, says in (
            ("get_totp_code", {"audience": "agent_editor", "agent": "agent_editor"}, "Extra"),
            ("get_totp_code", {"audience": "agent_other"}, "agent_editor"),
            ("delete_everything", {}, "no such tool"),
        ):
            refused = await session.call_tool(name, arguments)
            assert on_the_wire(refused)["isError"]
            assert says in refused.content[0].text


async def test_a_client_binds_a_code_to_a_message(ready: Run, folder: Path) -> None:
    """The code is good with exactly these words, and the answer quotes them."""
    async with client(folder, "agent_writer") as session:
        sent = {"audience": "agent_editor", "message": "pay bob 90"}
        got = await session.call_tool("get_totp_code", sent)
    with Pipelit.from_env() as pipelit:
        editor = pipelit.agent("agent_editor")
        code = got.content[0].text
        with pytest.raises(CodeRejected):
            editor.verify_peer("agent_writer", code)
        editor.verify_peer("agent_writer", code, message="pay bob 90")
        code = editor.totp_code(audience="agent_writer", message='say "yes"').code
    async with client(folder, "agent_writer", "--require-message") as session:
        (_, check, _) = on_the_wire(await session.list_tools())["tools"]
        assert "message" in check["inputSchema"]["required"]
        peer = {"username": "agent_editor", "code": code}
        bare = await session.call_tool("verify_peer", peer)
        good = await session.call_tool("verify_peer", {**peer, "message": 'say "yes"'})
    assert on_the_wire(bare)["isError"]
    assert good.content[0].text.splitlines()[1] == r'"say \"yes\""'


class Raw:
    """A server process, spoken to line by line, as no SDK would."""

    def __init__(self, folder: Path) -> None:
        self.server = subprocess.Popen(
            command("agent_writer"),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # A server that says nothing fails the test, and doesn't hold it up for ever.
        self.limit = threading.Timer(120, self.server.kill)
        self.limit.start()
        self.number = 0
        first = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        assert "result" in self.ask("initialize", first)
        self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    def send(self, line: bytes) -> None:
        """Writes one line."""
        assert self.server.stdin
        self.server.stdin.write(line + b"\n")
        self.server.stdin.flush()

    def answer(self) -> Any:
        """Reads one line."""
        assert self.server.stdout
        return json.loads(self.server.stdout.readline())

    def ask(self, method: str, params: Any) -> Any:
        """What the server answers to one request."""
        self.number += 1
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.send(json.dumps(message).encode())
        found = self.answer()
        assert found["id"] == self.number
        return found

    def end(self) -> str:
        """Closes the line, and returns what the server told the operator."""
        _, told = self.server.communicate(timeout=60)
        assert self.server.returncode == 0
        return told.decode()


@pytest.fixture
def raw(ready: Run, folder: Path) -> Iterator[Raw]:
    """A server that was greeted; it has to end well, with nothing on standard error."""
    made = Raw(folder)
    try:
        yield made
        assert made.ask("ping", {})["result"] == {}
        assert made.end() == ""
    finally:
        made.limit.cancel()
        made.server.kill()
        made.server.communicate()


def test_arguments_that_are_no_object_are_named(raw: Raw) -> None:
    """Each type of JSON gets an answer that says what was sent and what must be."""
    for arguments, found in (
        ([1], "an array"),
        ([], "an array"),
        ([["audience", "agent_editor"]], "an array"),
        ("audience", "text"),
        ("", "text"),
        (7, "a number"),
        (1.5, "a number"),
        (True, "a boolean"),
        (False, "a boolean"),
    ):
        refused = raw.ask("tools/call", {"name": "get_totp_code", "arguments": arguments})["error"]
        assert refused["code"] == -32602
        assert refused["message"] == (
            f"arguments must be an object with each argument by its name, not {found}."
        )
    for call in ({"arguments": None}, {}):
        said = raw.ask("tools/call", {"name": "get_totp_code", **call})["result"]
        assert said["isError"]
        assert "audience: Field required" in said["content"][0]["text"]
    for name in ({}, {"name": ["get_totp_code"]}, {"name": None}, {"name": 7}):
        refused = raw.ask("tools/call", {"arguments": {}, **name})["error"]
        assert refused["message"].startswith("name must be the name of a tool: get_totp_code,")


def test_huge_and_unknown_things_get_short_answers(raw: Raw) -> None:
    """Megabytes of a name, a hundred thousand arguments, a tool or method that isn't there."""
    for name, arguments, says in (
        ("get_totp_code", {"audience": "x" * 5_000_000}, "Not done: username"),
        ("get_totp_code", {f"k{n}\n": n for n in range(100_000)}, "and 99996 more"),
        ("get_totp_code", {"audience": {"a": [1] * 100_000}}, "audience: Input should be"),
        ("get_totp_code", {"audience": "agent_editor", "message": "x" * 10**6}, "4,000 are"),
        ("verify_peer", {"username": "x" * 10**6, "code": "1" * 10**6}, "Not verified: username"),
        ("n" * 100_000, {}, "There is no such tool. The tools are get_totp_code,"),
        ("GET_TOTP_CODE", {}, "There is no such tool"),
        ("", {}, "There is no such tool"),
    ):
        said = raw.ask("tools/call", {"name": name, "arguments": arguments})["result"]
        assert said["isError"]
        assert says in said["content"][0]["text"]
        assert len(said["content"][0]["text"]) < 600
        assert said["content"][0]["text"].isprintable()
    assert raw.ask("tools/delete", {})["error"]["code"] == -32601


CALL = '{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":PARAMS}'
DEEP = "[" * 50_000 + "]" * 50_000
AUDIENCE = '{"name":"get_totp_code","arguments":{"audience":VALUE}}'


UNREADABLE: list[tuple[str, int, int | str | None]] = [
    *(
        (CALL.replace("PARAMS", AUDIENCE).replace("VALUE", value), -32700, 41)
        for value in (DEEP, '"\\ud800"', "9" * 5000)
    ),
    *((CALL.replace("PARAMS", params), -32600, 41) for params in ("[1]", '"x"', "7", "true")),
    ('{"id": "a-b", "params": {"id": 9, "x": ' + DEEP + "}}", -32700, "a-b"),
    ('{"params": {"id": 9, "x": ' + DEEP + '}, "id": 41}', -32700, None),
    ('{"id":41,"method":"ping"}', -32600, 41),
    ('[{"jsonrpc":"2.0","id":41,"method":"ping"}]', -32600, None),
    ("[]", -32600, None),
    ("null", -32600, None),
    ("41", -32600, None),
    ('"ping"', -32600, None),
    ("{{{", -32700, None),
    ("\x00\xff", -32700, None),
]


def test_a_line_that_can_not_be_read_is_answered(raw: Raw) -> None:
    """Nobody waits for ever: the request's id where it can be told, null where it can't."""
    for line, code, answered in UNREADABLE:
        raw.send(line.replace("ID", "41").encode("latin-1"))
        found = raw.answer()
        assert (found["id"], found["error"]["code"]) == (answered, code), line[:80]
        assert found["error"]["message"].isprintable()


def test_a_notification_is_not_answered_and_calls_nothing(raw: Raw) -> None:
    """Without an id nobody waits: no code is made, no agent, no row, and the next line is read."""
    call = '{"name":"create_agent_user","arguments":{"purpose":"x"}}'
    with Pipelit.from_env() as pipelit:
        before = (len(pipelit.audit.list()), len(pipelit.users.list()))
        for line in (
            '{"jsonrpc":"2.0","method":"tools/call","params":' + call + "}",
            '{"jsonrpc":"2.0","method":"tools/call","params":[1]}',
            '{"jsonrpc":"2.0","method":"tools/call","params":{"name":7}}',
            '{"jsonrpc":"2.0","method":"no/such","params":{}}',
            '{"jsonrpc":"2.0","id":41,"result":[1]}',
            "",
        ):
            raw.send(line.encode())
            # The server reads in order: had it answered, that answer would come first.
            assert raw.ask("ping", {})["result"] == {}
        assert (len(pipelit.audit.list()), len(pipelit.users.list())) == before


async def test_a_tool_that_fails_tells_the_client_no_more_than_its_kind(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What isn't foreseen is for the operator: no text of it, and no traceback, reaches a model."""
    from mcp import types

    from pipelit_agents.tools.mcp import mcp_server

    @tool
    def broken(text: str) -> str:
        """Fails."""
        raise RuntimeError(f"at /srv/secret with {text}")

    server: Any = mcp_server([broken], name="x")
    params = types.CallToolRequestParams(name="broken", arguments={"text": "a"})
    if hasattr(server, "request_handlers"):
        call = types.CallToolRequest(method="tools/call", params=params)
        said = (await server.request_handlers[types.CallToolRequest](call)).root
    else:
        said = await server.get_request_handler("tools/call").handler(None, params)
    assert on_the_wire(said)["isError"]
    assert said.content[0].text == "The server can't do that now: RuntimeError."
    assert "at /srv/secret" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("agent", "says"),
    [("agent_nobody", "agents create agent_nobody"), ("alice", "is a person"), ("Agent", "lower")],
)
def test_who_cant_act_is_said_at_the_start(ready: Run, folder: Path, agent: str, says: str) -> None:
    """Before a client waits for a server that can do nothing."""
    done = subprocess.run(command(agent), cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr


def test_it_ends_when_the_client_goes(ready: Run, folder: Path) -> None:
    """A closed standard input is the end, without a word: here of a new interpreter."""
    done = subprocess.run(
        [sys.executable, "-m", "pipelit_agents.cli", "mcp", "agent_writer"],
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
    with subprocess.Popen(
        command("agent_writer"), cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin
        assert server.stdout
        request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        assert server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == -signal.SIGINT
