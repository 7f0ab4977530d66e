"""A scripted model behind OpenAI's protocol, for agents whose model gets its key by middleware."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from canary import KEY as CANARY
from openai_server import ChatServer, chat_server

from pipelit_agents import Pipelit

MODEL = "openai:gpt-test"
OTHER = "serper-0123456789-abcdef"


def answer(messages: list[Any]) -> Any:
    """Calls the tool that the user names, once, and then says what it answered."""
    first, last = messages[0], messages[-1]
    if "select the most relevant tools" in str(first["content"]):
        return json.dumps({"tools": ["search"]})
    if last["role"] == "tool":
        return f"found: {last['content']}"
    text = last["content"]
    if text.startswith("call "):
        name, _, arguments = text.removeprefix("call ").partition(" ")
        return [(name, json.loads(arguments))]
    if text.startswith("use "):
        return [("search", {"query": "otters"})] * (2 if "twice" in text else 1)
    if text.startswith("send "):
        return [("search", {"query": "otters", "api_key": "sk-mine"})]
    if text.startswith("{"):
        return text
    return "hello from the model"


@pytest.fixture(scope="module")
def served() -> Iterator[ChatServer]:
    """One for a module, as OpenAI's package makes its clients anew for each address."""
    with chat_server(answer) as server:
        yield server


@pytest.fixture
def chat(served: ChatServer) -> ChatServer:
    """A server that knows one key."""
    served.answer, served.keys, served.shown, served.requests = answer, {CANARY}, [], []
    return served


@pytest.fixture
def stored(pipelit: Pipelit, chat: ChatServer) -> Pipelit:
    """The model's credential, with its address, and a tool's."""
    public = {"base_url": chat.base_url}
    pipelit.credentials.put("openai", CANARY, kind="llm", created_by="alice", public=public)
    pipelit.credentials.put("serper", OTHER, kind="api", created_by="alice")
    return pipelit
