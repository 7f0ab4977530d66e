"""langchain-mcp-adapters with a server over HTTP that wants a key."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_mcp_adapters.client import MultiServerMCPClient
from langgraph.checkpoint.memory import InMemorySaver
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from pipelit_agents import Agent, Pipelit
from pipelit_agents.errors import CredentialError
from pipelit_agents.tools.mcp import mcp_server

BACKENDS = False
KEY = "crm-0123456789-abcdef"
NEW = "crm-9876543210-fedcba"


@tool
def contact(name: str) -> str:
    """Finds a contact."""
    return f"{name} is at extension 7"


class Scripted(GenericFakeChatModel):
    """Says what it was told to, whatever tools it is given."""

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return self


class Crm:
    """An MCP server over HTTP that wants a key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys = {KEY}
        self.seen: list[str] = []


@contextmanager
def serving() -> Iterator[Crm]:
    """The server on a port of this machine, for the length of the block."""
    manager = StreamableHTTPSessionManager(
        mcp_server([contact], name="crm"), json_response=True, stateless=True
    )
    listening = socket.create_server(("127.0.0.1", 0))
    crm = Crm(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with manager.run():
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        sent = dict(scope["headers"]).get(b"authorization", b"").decode()
        crm.seen.append(sent)
        if sent.removeprefix("Bearer ") in crm.keys:
            await manager.handle_request(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body"})

    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    started = threading.Event()
    startup = server.startup

    async def begin(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = begin  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=[[listening]])
    thread.start()
    assert started.wait(30)
    try:
        yield crm
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[Crm]:
    """One server for all tests."""
    with serving() as server:
        yield server


@pytest.fixture
def crm(served: Crm, pipelit: Pipelit) -> Crm:
    """The server, and its credential."""
    served.keys, served.seen = {KEY}, []
    put(pipelit, served, KEY)
    return served


def put(pipelit: Pipelit, crm: Crm, value: str) -> None:
    """Store the key for the server."""
    public = {"base_url": crm.url}
    pipelit.credentials.put("crm", value, kind="api", created_by="alice", public=public)


def connection(crm: Crm, auth: Any) -> Any:
    """What the adapters take."""
    return {"transport": "streamable_http", "url": crm.url, "auth": auth}


@pytest.mark.process
async def test_the_key_is_filled_in_at_each_request(
    crm: Crm, pipelit: Pipelit, writer: Agent
) -> None:
    """Listing tools outside of a node and calling them in an agent open it; nothing keeps it."""
    auth = pipelit.credentials.http_auth("crm", agent=writer)
    client = MultiServerMCPClient({"crm": connection(crm, auth)})
    tools = await client.get_tools()
    assert [each.name for each in tools] == ["contact"]
    call = {"name": "contact", "args": {"name": "ann"}, "id": "1"}
    model = Scripted(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("done")]))
    saver = InMemorySaver()
    agent = create_agent(model, tools, checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t7"}}
    result = await agent.ainvoke({"messages": [("user", "who?")]}, config)
    assert "extension 7" in str(result["messages"][2].content)
    assert set(crm.seen) == {f"Bearer {KEY}"}
    rows = [each for each in pipelit.audit.list() if each.action == "credential.reveal"]
    assert len(rows) == len(crm.seen)
    assert {row.actor for row in rows} == {"agent_writer"}
    assert {(row.thread, row.node) for row in rows} == {("", ""), ("t7", "tools")}
    left = [client.connections, vars(auth), tools, result, saver.storage, saver.blobs, saver.writes]
    assert KEY not in repr(left)


@pytest.mark.process
async def test_a_replaced_key_is_used_without_a_new_client(crm: Crm, pipelit: Pipelit) -> None:
    """The client that was made with the old key goes on with the new one."""
    client = MultiServerMCPClient({"crm": connection(crm, pipelit.credentials.http_auth("crm"))})
    (found,) = await client.get_tools()
    crm.keys = {NEW}
    put(pipelit, crm, NEW)
    assert "extension 7" in str(await found.ainvoke({"name": "bob"}))
    pipelit.credentials.delete("crm")
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - groups of groups
        await found.ainvoke({"name": "bob"})
    assert isinstance(innermost(caught.value), CredentialError)
    assert NEW not in repr(innermost(caught.value))


def innermost(error: BaseException) -> BaseException:
    """The error in groups of one."""
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    return error
