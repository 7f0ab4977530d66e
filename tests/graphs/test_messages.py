from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, SecretStr

from pipelit_agents import Secret
from pipelit_agents.errors import PayloadError
from pipelit_agents.graphs.codec import MARK, state_from_bytes, state_to_bytes

LIMIT = 2**20
CALL = {"name": "look", "args": {"x": [1, None]}, "id": "1", "type": "tool_call"}


def there_and_back(value: Any) -> Any:
    """What arrives of a value."""
    return state_from_bytes(state_to_bytes(value), limit=LIMIT)


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("hi", name="alice", id="1"),
        AIMessage("hello", tool_calls=[CALL], response_metadata={"model": "m"}),
        AIMessage([{"type": "text", "text": "hello"}]),
        SystemMessage("be good"),
        ToolMessage("found", tool_call_id="1", artifact={"rows": [1]}, status="error"),
        FunctionMessage("found", name="look"),
        ChatMessage("hi", role="critic"),
        RemoveMessage(id="1"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_keeps_its_class_and_its_fields(message: BaseMessage) -> None:
    """Every message class of LangChain comes back as itself, wherever it stands."""
    (back,) = there_and_back({"a": [message]})["a"]
    assert type(back) is type(message)
    assert back == message


def test_models_and_dataclasses_become_dicts() -> None:
    """Other models and dataclasses travel by their fields."""

    class Model(BaseModel):
        x: int

    @dataclasses.dataclass
    class Data:
        model: Model
        message: HumanMessage

    assert there_and_back(Data(Model(x=1), HumanMessage("hi"))) == {
        "model": {"x": 1},
        "message": HumanMessage("hi"),
    }


CONSTRUCTOR = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain_core", "prompts", "PromptTemplate"],
    "kwargs": {"template": "x"},
}


def test_a_serialized_object_stays_a_dict() -> None:
    """What LangChain's loader would build an object of is data here, also inside a message."""
    assert there_and_back(CONSTRUCTOR) == CONSTRUCTOR
    back = there_and_back(AIMessage("x", additional_kwargs={"lc": CONSTRUCTOR}))
    assert back.additional_kwargs == {"lc": CONSTRUCTOR}


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "ai",
        {},
        {"type": "ai"},
        {"type": "ai", "data": {}},
        {"type": "ai", "data": None},
        {"type": "ai", "data": []},
        {"type": "ai", "data": {"content": 5}},
        {"type": "ai", "data": {"content": "x", "tool_calls": [CONSTRUCTOR]}},
        {"type": "ai", "data": {"content": "x"}, "more": 1},
        {"type": "ai", "data": {"additional_kwargs": None}},
        {"type": "ai", "data": {"invalid_tool_calls": [None]}},
        {"type": "tool", "data": {"content": "x"}},
        {"type": ["ai"], "data": {"content": "x"}},
        {"type": "langchain_core.prompts.PromptTemplate", "data": {"content": "x"}},
        {"type": "constructor", "data": CONSTRUCTOR},
        CONSTRUCTOR,
    ],
    ids=lambda content: json.dumps(content)[:40],
)
def test_a_forged_message_is_refused(content: Any) -> None:
    """A marked dict that is no message of LangChain's is refused, and nothing is loaded."""
    with pytest.raises(PayloadError, match="message of unknown form"):
        state_from_bytes(json.dumps({"a": [{MARK: content}]}).encode(), limit=LIMIT)


def test_a_mark_that_is_written_with_escapes_is_a_mark() -> None:
    """The bytes don't show it, and a forged message behind it is refused like any other."""
    hidden = MARK.replace("_", "\\u005f")
    forged = f'{{"{hidden}": 1}}'.encode()
    assert MARK.encode() not in forged
    with pytest.raises(PayloadError, match="unknown form"):
        state_from_bytes(forged, limit=LIMIT)


def test_a_marked_dict_with_more_in_it_is_refused() -> None:
    """The mark stands alone or not at all."""
    content = {"type": "ai", "data": {"content": "x"}}
    with pytest.raises(PayloadError, match="unknown form"):
        state_from_bytes(json.dumps({MARK: content, "x": 1}).encode(), limit=LIMIT)


_KEY = st.sampled_from(
    [
        *("content", "type", "id", "name", "role", "chunk", "args"),
        *("tool_calls", "tool_call_id", "invalid_tool_calls"),
        *("usage_metadata", "additional_kwargs", "response_metadata"),
    ]
)
_TYPE = st.sampled_from(
    [
        *("ai", "human", "tool", "system", "function", "chat", "remove", "x"),
        *("AIMessageChunk", "HumanMessageChunk", "ToolMessageChunk", "ChatMessageChunk"),
    ]
)
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("aix", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=3),
    max_leaves=8,
)


@given(_TYPE, st.dictionaries(_KEY, _VALUE, max_size=5))
def test_a_forged_message_is_a_message_or_refused(kind: str, data: dict[str, Any]) -> None:
    """Whatever stands in a marked dict, a message comes of it or PayloadError."""
    given_bytes = json.dumps({MARK: {"type": kind, "data": data}}).encode()
    try:
        value = state_from_bytes(given_bytes, limit=LIMIT)
    except PayloadError:
        return
    assert isinstance(value, BaseMessage)
    assert type(value).__module__.startswith("langchain_core.messages.")


@pytest.mark.parametrize(
    "hide",
    [
        lambda secret: secret,
        lambda secret: {"a": [secret]},
        lambda secret: HumanMessage("x", additional_kwargs={"key": secret}),
        lambda secret: AIMessage("x", response_metadata={"deep": {"key": [secret]}}),
        lambda secret: ToolMessage("x", tool_call_id="1", artifact=secret),
        lambda secret: Holder(secret=secret),
        lambda secret: Data(secret),
    ],
    ids=["bare", "in a list", "kwargs", "metadata", "artifact", "model", "dataclass"],
)
@pytest.mark.parametrize("kind", [SecretStr, Secret])
def test_a_secret_does_not_travel(kind: Any, hide: Any) -> None:
    """A secret anywhere in a state is refused, without its value in the words."""
    with pytest.raises(PayloadError) as caught:
        state_to_bytes(hide(kind("sk-canary-4f1d")))
    assert "canary" not in str(caught.value)


class Holder(BaseModel):
    """A model with a secret."""

    secret: Any


@dataclasses.dataclass
class Data:
    """A dataclass with a secret."""

    secret: Any
