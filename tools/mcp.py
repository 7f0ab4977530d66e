"""One agent's tools over MCP, for clients of the Model Context Protocol."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any, Final

from langchain_core.tools import BaseTool
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from pipelit_agents.errors import ConfigurationError

from .mcp_content import mcp_content, text_content

__all__ = ["mcp_server", "serve_stdio"]

# Version 2 of the SDK takes handlers as arguments, and messages have no wrapper.
_SDK: Final = int(version("mcp").partition(".")[0])
# Matches the id of an unreadable request, if only members of JSON-RPC precede it.
_ID: Final = re.compile(
    r'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*'
    r'(?:(?P<number>-?[0-9]{1,15})|"(?P<text>[^"\\]{0,200})")\s*[,}]'
)
_NO_REQUEST: Final = (
    'The message isn\'t a JSON-RPC 2.0 request: jsonrpc must be "2.0", id text or a whole '
    "number, method text, and params an object. Batches are not supported."
)
_METHODS: Final = frozenset({"initialize", "ping", "tools/list", "tools/call"})
_NOTIFICATIONS: Final = frozenset(
    f"notifications/{name}" for name in ("initialized", "cancelled", "progress")
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
    """Create an MCP server from LangChain tools, with version 1 or 2 of the MCP SDK.

    Args:
        tools: The tools. Each acts as the agent that it was built with; a client can't change that.
        name: The server's name.
    """
    by_name = {tool.name: tool for tool in tools}
    entries = [_tool_entry(tool) for tool in tools]
    # Any: each version has types of its own.
    kind: Any = Server
    known = version("pipelit-agents")
    if _SDK >= 2:

        async def on_list_tools(_context: object, _params: object) -> types.ListToolsResult:
            return types.ListToolsResult(tools=entries)

        async def on_call_tool(
            _context: object, params: types.CallToolRequestParams
        ) -> types.CallToolResult:
            return await _called(by_name, params)

        made: Server[Any] = kind(
            name, version=known, on_list_tools=on_list_tools, on_call_tool=on_call_tool
        )
        return made

    async def list_tools(_request: object) -> types.ServerResult:
        return types.ServerResult(types.ListToolsResult(tools=entries))

    async def call_tool(request: types.CallToolRequest) -> types.ServerResult:
        return types.ServerResult(await _called(by_name, request.params))

    made = kind(name, version=known)
    # Not by the decorators of version 1: they check arguments in words of their own.
    made.request_handlers[types.ListToolsRequest] = list_tools
    made.request_handlers[types.CallToolRequest] = call_tool
    return made


async def _called(
    tools: Mapping[str, BaseTool], params: types.CallToolRequestParams
) -> types.CallToolResult:
    tool = tools.get(params.name)
    if tool is None:
        return _result(f"There is no such tool. The tools are {', '.join(tools)}.", wrong=True)
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
    return _made_of(mcp_content(answer), wrong=answer.status == "error")


def serve_stdio(tools: Sequence[BaseTool], *, name: str) -> None:
    """Serve tools on standard input and output until the client closes them.

    Args:
        tools: As for ``mcp_server``.
        name: As for ``mcp_server``.

    Raises:
        ConfigurationError: Standard input or output is closed.
    """
    import anyio

    if sys.stdin is None or sys.stdout is None:
        raise ConfigurationError("an MCP server needs standard input and output: both are closed")
    server = mcp_server(tools, name=name)
    by_name = {tool.name: tool for tool in tools}

    async def serve() -> None:
        async with stdio_server(*_streams()) as (reading, writing):
            passing, readable = anyio.create_memory_object_stream[SessionMessage | Exception]()

            async def pass_on() -> None:
                async with passing:
                    async for item in reading:
                        if isinstance(item, Exception):
                            # The SDK drops a line that it can't read, and the client would wait.
                            answer = _answer_to_unreadable(item)
                        else:
                            # The SDK refuses these with "Invalid request parameters" only.
                            answer = _answer_to_invalid(item, by_name)
                        if answer is not None:
                            await writing.send(SessionMessage(answer))
                        elif not isinstance(item, Exception) and not _is_unknown(item):
                            await passing.send(item)

            async with anyio.create_task_group() as group:
                group.start_soon(pass_on)
                await server.run(readable, writing, server.create_initialization_options())
                group.cancel_scope.cancel()

    anyio.run(serve)


class _Kept(TextIOWrapper):
    """Text over a standard stream that leaves it open at the end, as version 2 of the SDK does."""

    def close(self) -> None:
        with suppress(ValueError):
            self.detach()


def _streams() -> tuple[Any, ...]:
    """Return what the SDK reads and writes, if its version would close the process's own."""
    if _SDK >= 2:
        return ()
    import anyio

    # As the SDK opens them.
    reading = _Kept(sys.stdin.buffer, encoding="utf-8", errors="replace")
    return anyio.wrap_file(reading), anyio.wrap_file(_Kept(sys.stdout.buffer, encoding="utf-8"))


def _is_unknown(item: SessionMessage) -> bool:
    """Return whether a message is a notification that version 1 of the SDK would log as invalid."""
    message: Any = getattr(item.message, "root", item.message)
    if _SDK >= 2 or hasattr(message, "id"):
        return False
    return message.method not in _NOTIFICATIONS


def _answer_to_invalid(item: SessionMessage, tools: Mapping[str, BaseTool]) -> Any:
    """Return the answer to a request that the SDK would refuse in other words, or None."""
    message: Any = getattr(item.message, "root", item.message)
    method = getattr(message, "method", None)
    if method is None or not hasattr(message, "id"):
        return None
    if _SDK < 2 and method not in _METHODS:
        # Version 1 calls the parameters invalid.
        return _error(message.id, types.METHOD_NOT_FOUND, "Method not found")
    if method != "tools/call":
        return None
    problem = _problem(message.params, tools)
    return _error(message.id, types.INVALID_PARAMS, f"{problem}.") if problem else None


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


def _answer_to_unreadable(error: Exception) -> Any:
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


class _Line:
    """A message that is written as it is: version 1 of the SDK has none without an id."""

    def __init__(self, text: str) -> None:
        self._text = text

    def model_dump_json(self, **_: object) -> str:
        """Return the message, as the SDK's own messages do."""
        return self._text


def _error(request: int | str | None, code: int, message: str) -> Any:
    """Return an answer of JSON-RPC; Any: it takes the place of one of the SDK's messages."""
    error = {"code": code, "message": message}
    return _Line(json.dumps({"jsonrpc": "2.0", "id": request, "error": error}))


def _tool_entry(tool: BaseTool) -> types.Tool:
    schema: Any = tool.tool_call_schema
    found = schema if isinstance(schema, dict) else schema.model_json_schema()
    # By the names of the protocol, which both versions take.
    return types.Tool.model_validate(
        {"name": tool.name, "description": tool.description, "inputSchema": found}
    )


def _result(text: str, *, wrong: bool) -> types.CallToolResult:
    return _made_of([text_content(text)], wrong=wrong)


def _made_of(content: list[dict[str, object]], *, wrong: bool) -> types.CallToolResult:
    # By the names of the protocol, which both versions take.
    return types.CallToolResult.model_validate({"content": content, "isError": wrong})
