"""Try the MCP server, and a header for one, with version 2 of the MCP SDK.

Run by ``make wheel`` in the wheel's own environment. The tests have version 1, because
langchain-mcp-adapters needs it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from langchain_core.tools import tool
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from pipelit_agents import Keyring, Pipelit
from pipelit_agents.tools.mcp import mcp_server

KEY = "crm-0123456789-abcdef"


@tool
def contact(name: str) -> str:
    """Finds a contact."""
    return f"{name} is at extension 7"


@tool
def picture(name: str) -> list[dict[str, str]]:
    """Finds a picture."""
    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    return [{"type": "text", "text": name}, image]


@asynccontextmanager
async def session(streams: Any) -> Any:
    """A client of a server."""
    async with AsyncExitStack() as stack:
        reading, writing, *_ = await stack.enter_async_context(streams)
        made = await stack.enter_async_context(ClientSession(reading, writing))
        await made.initialize()
        yield made


async def over_stdio(pipelit: Pipelit, environment: dict[str, str]) -> None:
    """An agent's tools: listed, called, and refused in words."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "pipelit_agents.cli", "mcp", "agent_writer"],
        env={**os.environ, **environment},
    )
    async with session(stdio_client(server)) as client:
        names = [each.name for each in (await client.list_tools()).tools]
        assert names == ["get_totp_code", "verify_peer", "create_agent_user"], names
        got = await client.call_tool("get_totp_code", {"audience": "agent_editor"})
        pipelit.agent("agent_editor").verify_peer("agent_writer", got.content[0].text)
        refused = await client.call_tool("get_totp_code", {"agent": "agent_editor"})
        assert refused.is_error


async def over_http(pipelit: Pipelit) -> None:
    """A server that wants a key gets it with each request, from a client of httpx2."""
    seen: list[str] = []
    served: Any = mcp_server([contact, picture], name="crm")
    inner = served.streamable_http_app(json_response=True, stateless_http=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        await inner(scope, receive, send)

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
    pipelit.credentials.put("crm", KEY, kind="api", created_by="alice", public={"base_url": url})
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    running = asyncio.create_task(server.serve([listening]))
    auth: Any = pipelit.credentials.http_auth("crm")
    async with (
        httpx2.AsyncClient(auth=auth) as http,
        session(streamable_http_client(url, http_client=http)) as client,
    ):
        said = await client.call_tool("contact", {"name": "ann"})
        assert said.content[0].text == "ann is at extension 7"
        seen_as = await client.call_tool("picture", {"name": "ann"})
        assert [each.type for each in seen_as.content] == ["text", "image"], seen_as
    server.should_exit = True
    await running
    assert seen
    assert set(seen) == {f"Bearer {KEY}"}, set(seen)


def main() -> None:
    """Make a database, and try both."""
    assert version("mcp").startswith("2."), version("mcp")
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "PIPELIT_DATABASE_URL": f"sqlite:///{Path(folder) / 'agents.db'}",
            "FIELD_ENCRYPTION_KEY": Keyring.generate_key(),
        }
        os.environ.update(environment)
        with Pipelit.from_env() as pipelit:
            pipelit.create_schema()
            pipelit.users.create("alice")
            for name in ("agent_writer", "agent_editor"):
                pipelit.users.create_agent(name, owner="alice", purpose="tries MCP")
            asyncio.run(over_stdio(pipelit, environment))
            asyncio.run(over_http(pipelit))


if __name__ == "__main__":
    main()
