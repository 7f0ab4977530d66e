"""One agent's tools over MCP, for clients that speak the Model Context Protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from langchain_core.tools import BaseTool
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

from pipelit_agents.errors import ConfigurationError, PipelitError

__all__ = ["mcp_server", "serve_stdio"]


def mcp_server(tools: Sequence[BaseTool], *, name: str) -> Server[Any]:
    """Makes an MCP server of LangChain tools.

    Args:
        tools: What it offers; each acts as the agent that it was built with, whatever a client
            sends.
        name: What the server is called.
    """
    by_name = {tool.name: tool for tool in tools}

    async def on_list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_shown(tool) for tool in tools])

    async def on_call_tool(_context: Any, params: Any) -> types.CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            return _said(f"There is no such tool; there are {', '.join(by_name)}.", wrong=True)
        call = {
            "type": "tool_call",
            "name": tool.name,
            "args": dict(params.arguments or {}),
            "id": "mcp",
        }
        try:
            answer = await tool.ainvoke(call)
        except PipelitError as error:
            # Not the model's to mend; and the client's log is no place for a traceback.
            print(f"error: {tool.name}: {error}", file=sys.stderr)  # noqa: T201 - the operator's
            return _said(f"The server can't do that now: {type(error).__name__}.", wrong=True)
        return _said(str(answer.content), wrong=answer.status == "error")

    return Server(
        name,
        version=version("pipelit-agents"),
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )


def serve_stdio(tools: Sequence[BaseTool], *, name: str) -> None:
    """Serves tools on standard input and output until the client closes them.

    Args:
        tools: As for :func:`mcp_server`.
        name: As for :func:`mcp_server`.

    Raises:
        ConfigurationError: Standard input or output is closed.
    """
    import anyio

    if sys.stdin is None or sys.stdout is None:
        raise ConfigurationError("an MCP server needs standard input and output: both are closed")
    server = mcp_server(tools, name=name)

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    anyio.run(serve)


def _shown(tool: BaseTool) -> types.Tool:
    schema: Any = tool.tool_call_schema
    found = schema if isinstance(schema, dict) else schema.model_json_schema()
    return types.Tool(name=tool.name, description=tool.description, input_schema=found)


def _said(text: str, *, wrong: bool) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=wrong)
