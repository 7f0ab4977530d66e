"""Choose which messages of a conversation are sent to a child, and leave out what isn't its own.

A conversation holds more than a child needs: calls of the lead's tools that have no answer yet, the
reasoning of other models, and metadata that says who proved what. None of it is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolCall,
    ToolMessage,
    convert_to_messages,
)

from .messages import is_readable

__all__ = ["History", "as_messages", "check_history", "messages_to_send"]

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
    """Return the messages of a state's ``messages``: a list or one, in any form of LangChain's.

    A tuple is one message, its role and text, as for ``add_messages``.
    """
    if value is None:
        return []
    many = value if isinstance(value, list) else [value]
    return convert_to_messages(cast(Sequence[MessageLikeRepresentation], many))


def messages_to_send(messages: Sequence[BaseMessage], history: History) -> list[BaseMessage]:
    """Return the messages of a conversation that a child receives.

    Each has its type, content, name and id, and a new id if it has none. An AI message also has the
    tool calls that the tool messages right after it answer, each under an id that no other call
    has, so that the conversation is one that model providers accept.

    Args:
        messages: The conversation.
        history: ``all``; ``last``, the last human message; or a function from all messages to
            those that are sent.

    Raises:
        TypeError: The function returns something else than a list of messages.
    """
    chosen: list[BaseMessage] = list(messages)
    if history == "last":
        chosen = list(filter(_is_human, chosen))[-1:]
    elif not isinstance(history, str):
        chosen = _chosen_by(history, chosen)
    calls = _Calls()
    sent: list[BaseMessage] = []
    for message, answered in zip(chosen, _answered_calls(chosen), strict=True):
        made = _copied(message, answered, calls)
        if made is not None:
            sent.append(made)
    return sent


def _chosen_by(
    history: Callable[[list[BaseMessage]], Sequence[MessageLikeRepresentation]],
    messages: list[BaseMessage],
) -> list[BaseMessage]:
    found: object = history(messages)
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping | BaseMessage):
        raise TypeError(
            f"the function history must return a list of messages, not {type(found).__name__}"
        )
    read: list[BaseMessage] = []
    for position, each in enumerate(found):
        try:
            read += as_messages([each])
        except Exception as error:
            # LangChain raises many types if a value isn't in one of the forms of a message.
            raise TypeError(
                f"the function history must return a list of messages; the value at index "
                f"{position} is none, but {type(each).__name__}"
            ) from error
    return read


def _without_reasoning(content: list[str | dict[str, object]]) -> list[str | dict[str, object]]:
    """Return the blocks of a message's content that another model can read."""
    return [each for each in content if not _is_reasoning(each)]


def _answered_calls(messages: Sequence[BaseMessage]) -> list[set[str]]:
    """Return for each message the tool calls that the tool messages right after it answer."""
    answers: set[str] = set()
    found: list[set[str]] = []
    for message in reversed(messages):
        found.append(answers)
        if isinstance(message, ToolMessage):
            answers.add(message.tool_call_id)
        else:
            answers = set()
    return found[::-1]


@dataclass
class _Calls:
    """The tool calls that are sent.

    Attributes:
        sent: Their ids.
        open: Those that wait for their answer: the id under which each is sent, by its own.
    """

    sent: set[str] = field(default_factory=set)
    open: dict[str, str] = field(default_factory=dict)

    def send(self, calls: Iterable[ToolCall], answered: set[str]) -> list[ToolCall]:
        """Return the calls that are answered, each under an id that no other call has."""
        self.open = {}
        found: list[ToolCall] = []
        for call in calls:
            own = call["id"]
            if own is None or own not in answered or own in self.open:
                continue
            sent_as, number = own, 1
            while sent_as in self.sent:
                number += 1
                sent_as = f"{own}-{number}"
            self.open[own] = sent_as
            self.sent.add(sent_as)
            found.append({**call, "id": sent_as})
        return found


def _copied(message: BaseMessage, answered: set[str], calls: _Calls) -> BaseMessage | None:
    """Return a copy of a message without metadata; None if nothing of it is sent.

    Args:
        message: The message.
        answered: The tool calls that the following messages answer.
        calls: The calls that are sent. Updated.
    """
    # With an id, a message that the child returns is known as one that was sent.
    content, name, id_ = message.content, message.name, message.id or str(uuid.uuid4())
    if isinstance(message, HumanMessage):
        return HumanMessage(content, name=name, id=id_)
    if isinstance(message, SystemMessage):
        return SystemMessage(content, name=name, id=id_)
    if isinstance(message, ChatMessage):
        return ChatMessage(content=content, role=message.role, name=name, id=id_)
    if isinstance(message, ToolMessage):
        call = calls.open.pop(message.tool_call_id, None)
        if call is None:
            return None
        return ToolMessage(content, tool_call_id=call, status=message.status, name=name, id=id_)
    if isinstance(message, AIMessage):
        made = calls.send(message.tool_calls, answered)
        if not isinstance(content, str):
            content = [each for each in _without_reasoning(content) if is_readable(each)] or ""
        if not made and not content:
            return None
        return AIMessage(content, tool_calls=made, name=name, id=id_)
    return None


def _is_human(message: BaseMessage) -> bool:
    return isinstance(message, HumanMessage)


def _is_reasoning(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") in _REASONING
