"""One agent's tools over MCP, for clients of the Model Context Protocol."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from langchain_core.tools import BaseTool
from mcp import MCPError, types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from pipelit_agents.errors import ConfigurationError

if TYPE_CHECKING:
    # Provisional in the SDK, like the list of middleware below.
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

__all__ = ["mcp_server", "serve_stdio"]

# Matches the id of an unreadable request, if only members of JSON-RPC precede it.
_ID: Final = re.compile(
    r'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*'
    r'(?:(?P<number>-?[0-9]{1,15})|"(?P<text>[^"\\]{0,200})")\s*[,}]'
)
_NO_REQUEST: Final = (
    'The message isn\'t a JSON-RPC 2.0 request: jsonrpc must be "2.0", id text or a whole '
    "number, method text, and params an object. Batches are not supported."
)
_JSON_TYPES: Final[dict[type, str]] = {
    bool: "a boolean",
    float: "a number",
    int: "a number",
    list: "an array",
    str: "text",
    type(None): "null",
}


def mcp_server(tools: Sequence[BaseTool], *, name: str) -> Server[Any]:
    """Create an MCP server from LangChain tools.

    Args:
        tools: The tools. Each acts as the agent that it was built with; a client can't change that.
        name: The server's name.
    """
    by_name = {tool.name: tool for tool in tools}

    async def on_list_tools(_context: object, _params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool_entry(tool) for tool in tools])

    async def on_call_tool(
        _context: object, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = by_name.get(params.name)
        if tool is None:
            return _result(
                f"There is no such tool. The tools are {', '.join(by_name)}.", wrong=True
            )
        arguments = {} if params.arguments is None else params.arguments
        if not isinstance(arguments, dict):
            return _result(f"{_not_an_object(arguments)}.", wrong=True)
        call = {"type": "tool_call", "name": tool.name, "args": dict(arguments), "id": "mcp"}
        try:
            answer = await tool.ainvoke(call)
        except Exception as error:
            # The model can't fix this, and the client's log must not get a traceback.
            print(f"error: {tool.name}: {error}", file=sys.stderr)  # noqa: T201 - the operator's
            return _result(f"The server can't do that now: {type(error).__name__}.", wrong=True)
        return _result(str(answer.content), wrong=answer.status == "error")

    async def explain_invalid_params(
        ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        # The SDK refuses these with "Invalid request parameters" only.
        if ctx.method == "tools/call" and ctx.request_id is not None:
            problem = _problem(ctx.params, by_name)
            if problem:
                raise MCPError(code=types.INVALID_PARAMS, message=f"{problem}.")
        return await call_next(ctx)

    server: Server[Any] = Server(
        name,
        version=version("pipelit-agents"),
        on_list_tools=on_list_tools,
        on_call_tool=on_call_tool,
    )
    # The SDK calls this list provisional. Without it only the error messages are worse.
    middleware = getattr(server, "middleware", None)
    if middleware is not None:
        middleware.append(explain_invalid_params)
    return server


def serve_stdio(tools: Sequence[BaseTool], *, name: str) -> None:
    """Serve tools on standard input and output until the client closes them.

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
            passing, readable = anyio.create_memory_object_stream[SessionMessage | Exception]()

            async def answer_unreadable() -> None:
                # The SDK drops a line that it can't read, and the client would wait forever.
                async with passing:
                    async for item in reading:
                        if not isinstance(item, Exception):
                            await passing.send(item)
                        elif answer := _answer_to_unreadable(item):
                            await writing.send(SessionMessage(answer))

            async with anyio.create_task_group() as group:
                group.start_soon(answer_unreadable)
                await server.run(readable, writing, server.create_initialization_options())
                group.cancel_scope.cancel()

    anyio.run(serve)


def _problem(params: Mapping[str, object] | None, tools: Mapping[str, BaseTool]) -> str:
    """Return the problem with a call's parameters, before the tool validates its arguments."""
    fields = {} if params is None else params
    if not isinstance(fields.get("name"), str):
        return f"name must be the name of a tool: {', '.join(tools)}"
    arguments = fields.get("arguments")
    return "" if arguments is None or isinstance(arguments, dict) else _not_an_object(arguments)


def _not_an_object(arguments: object) -> str:
    found = _JSON_TYPES.get(type(arguments), "something else")
    return f"arguments must be an object with each argument by its name, not {found}"


def _answer_to_unreadable(error: Exception) -> types.JSONRPCError | None:
    """Return the answer to a line that isn't a message; None if no answer is expected."""
    found = error.errors(include_url=False) if isinstance(error, ValidationError) else []
    for each in found:
        line = each["input"]
        if each["type"] == "json_invalid" and isinstance(line, str):
            if not line.strip():
                return None
            head = _ID.match(line)
            number, text = head.groups() if head else (None, None)
            return _error(
                text if number is None else int(number),
                types.PARSE_ERROR,
                f"The line can't be read. {each['msg']}",
            )
        if isinstance(line, dict) and each["type"] == "missing":
            if "result" in line or "error" in line or ("method" in line and "id" not in line):
                # A response or a notification gets no answer.
                return None
            of_request = line.get("id")
            known = type(of_request) in (int, str)
            return _error(of_request if known else None, types.INVALID_REQUEST, _NO_REQUEST)
    return _error(None, types.INVALID_REQUEST, _NO_REQUEST)


def _error(request: int | str | None, code: int, message: str) -> types.JSONRPCError:
    error = types.ErrorData(code=code, message=message)
    return types.JSONRPCError(jsonrpc="2.0", id=request, error=error)


def _tool_entry(tool: BaseTool) -> types.Tool:
    schema: Any = tool.tool_call_schema
    found = schema if isinstance(schema, dict) else schema.model_json_schema()
    return types.Tool(name=tool.name, description=tool.description, input_schema=found)


def _result(text: str, *, wrong: bool) -> types.CallToolResult:
    # A lone surrogate can't be encoded, and would end the server.
    sendable = text.encode(errors="backslashreplace").decode()
    content = types.TextContent(type="text", text=sendable)
    return types.CallToolResult(content=[content], is_error=wrong)
