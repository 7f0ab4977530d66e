"""Choose which messages of a conversation are sent to a child, and leave out what isn't its own.

A conversation holds more than a child needs: calls of the lead's tools that have no answer yet, the
reasoning of other models, and metadata that says who proved what. None of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from .messages import is_readable

__all__ = ["History", "as_messages", "check_history", "messages_to_send", "without_reasoning"]

History: TypeAlias = (
    Literal["all", "last"] | Callable[[list[BaseMessage]], Sequence[MessageLikeRepresentation]]
)

# Content that only the model that made it can read. Providers refuse it from another model.
_REASONING: Final = frozenset({"reasoning", "thinking", "redacted_thinking"})


def check_history(history: object) -> None:
    """Validate the option ``history``.

    Raises:
        ValueError: It is another text than ``all`` or ``last``.
        TypeError: It is neither a text nor a function.
    """
    if isinstance(history, str):
        if history not in ("all", "last"):
            raise ValueError(f"history is 'all', 'last' or a function, not {history!r}")
    elif not callable(history):
        raise TypeError(f"history is 'all', 'last' or a function, not {type(history).__name__}")


def as_messages(value: object) -> list[BaseMessage]:
    """Return the messages of a state's ``messages``: one or a list, in any form of LangChain's."""
    if value is None:
        return []
    many = value if isinstance(value, list | tuple) else [value]
    return convert_to_messages(cast(Sequence[MessageLikeRepresentation], many))


def messages_to_send(messages: Sequence[BaseMessage], history: History) -> list[BaseMessage]:
    """Return the messages of a conversation that a child receives.

    Each has its type, content, name and id. An AI message also has the tool calls that the messages
    after it answer, so that the conversation is one that model providers accept.

    Args:
        messages: The conversation.
        history: ``all``; ``last``, the last human message; or a function from all messages to
            those that are sent.
    """
    chosen: list[BaseMessage] = list(messages)
    if history == "last":
        chosen = list(filter(_is_human, chosen))[-1:]
    elif not isinstance(history, str):
        chosen = as_messages(list(history(chosen)))
    open_calls: set[str] = set()
    sent: list[BaseMessage] = []
    for message, answered in zip(chosen, _answered_calls(chosen), strict=True):
        made = _copied(message, answered, open_calls)
        if made is not None:
            sent.append(made)
    return sent


def without_reasoning(content: list[str | dict[str, object]]) -> list[str | dict[str, object]]:
    """Return the blocks of a message's content that another model can read."""
    return [each for each in content if not _is_reasoning(each)]


def _answered_calls(messages: Sequence[BaseMessage]) -> list[set[str]]:
    """Return for each message the tool calls that are answered before the next AI message."""
    answers: set[str] = set()
    found: list[set[str]] = []
    for message in reversed(messages):
        found.append(answers)
        if isinstance(message, ToolMessage):
            answers = answers | {message.tool_call_id}
        elif isinstance(message, AIMessage):
            answers = set()
    return found[::-1]


def _copied(message: BaseMessage, answered: set[str], open_calls: set[str]) -> BaseMessage | None:
    """Return a copy of a message without metadata; None if nothing of it is sent.

    Args:
        message: The message.
        answered: The tool calls that the following messages answer.
        open_calls: The calls that wait for their answer. Updated.
    """
    content, name, id_ = message.content, message.name, message.id
    if isinstance(message, HumanMessage):
        return HumanMessage(content, name=name, id=id_)
    if isinstance(message, SystemMessage):
        return SystemMessage(content, name=name, id=id_)
    if isinstance(message, ChatMessage):
        return ChatMessage(content=content, role=message.role, name=name, id=id_)
    if isinstance(message, ToolMessage):
        if message.tool_call_id not in open_calls:
            return None
        open_calls.remove(message.tool_call_id)
        call = message.tool_call_id
        return ToolMessage(content, tool_call_id=call, status=message.status, name=name, id=id_)
    if isinstance(message, AIMessage):
        calls = [each for each in message.tool_calls if each["id"] in answered]
        if not isinstance(content, str):
            content = [each for each in without_reasoning(content) if is_readable(each)] or ""
        if not calls and not content:
            return None
        open_calls.update(_ids(each["id"] for each in calls))
        return AIMessage(content, tool_calls=calls, name=name, id=id_)
    return None


def _is_human(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage)


def _ids(values: Iterable[str | None]) -> set[str]:
    return {each for each in values if each is not None}


def _is_reasoning(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") in _REASONING
