"""What a tool of ours answers over MCP: each block in the protocol's own type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from mcp import types
from spawning import NAME

from pipelit_agents import Agent
from pipelit_agents.graphs import verified_child
from pipelit_agents.tools import SpawnAndAwait
from pipelit_agents.tools.mcp import mcp_server
from pipelit_agents.tools.mcp_content import mcp_content

BACKENDS = False
IMAGE = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
PDF = {"type": "file", "base64": "JVBERi0=", "mime_type": "application/pdf"}


async def test_an_agents_answer_keeps_its_image_and_file(lead: Agent, researcher: Agent) -> None:
    """The JSON is one text, an image an image, and a file an embedded resource."""
    said = {"messages": [AIMessage([{"type": "text", "text": "a chart"}, IMAGE, PDF])]}
    builder = StateGraph(MessagesState).add_node("work", lambda _: said).add_edge(START, "work")
    child = verified_child(builder.compile(), researcher)
    server: Any = mcp_server([SpawnAndAwait(agent=lead, children={NAME: child})], name="x")
    arguments = {"tasks": [{"agent": NAME, "message": "x"}]}
    params = types.CallToolRequestParams(name="spawn_and_await", arguments=arguments)
    call = types.CallToolRequest(method="tools/call", params=params)
    found = (await server.request_handlers[types.CallToolRequest](call)).root
    assert not found.isError
    text, _, image, _, file = found.content
    assert json.loads(text.text)[0]["answer"][0] == "a chart"
    assert (image.type, image.data, image.mimeType) == ("image", "iVBORw0KGgo=", "image/png")
    assert (file.type, str(file.resource.uri)) == ("resource", "attachment:///attachment-2.pdf")
    assert (file.resource.blob, file.resource.mimeType) == ("JVBERi0=", "application/pdf")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x", [{"type": "text", "text": "x"}]),
        ("\ud800", [{"type": "text", "text": "\\ud800"}]),
        ([], [{"type": "text", "text": ""}]),
        (["x"], [{"type": "text", "text": "x"}]),
        (
            [{"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}],
            [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}],
        ),
        (
            [{**PDF, "extras": {"filename": "a b/../c.pdf"}}],
            [
                {
                    "type": "resource",
                    "resource": {
                        "uri": "attachment:///a%20b%2F..%2Fc.pdf",
                        "mimeType": "application/pdf",
                        "blob": "JVBERi0=",
                    },
                }
            ],
        ),
    ],
    ids=["text", "surrogate", "nothing", "a plain text", "a sound", "a file's name"],
)
def test_each_block_has_the_protocols_type(content: Any, expected: list[Any]) -> None:
    """By the names of the protocol, which both versions of the SDK take."""
    found = mcp_content(ToolMessage(content, tool_call_id="1"))
    assert found == expected
    types.CallToolResult.model_validate({"content": found, "isError": False})


def test_a_link_stays_text() -> None:
    """A client could fetch a resource of ours that is a link."""
    link = {"type": "image", "url": "https://a.example/b.png"}
    (found,) = mcp_content(ToolMessage([link], tool_call_id="1"))
    assert (found["type"], "https://a.example/b.png" in str(found["text"])) == ("text", True)
