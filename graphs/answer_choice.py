"""Choose what of a child's output is its answer.

A child usually returns the conversation that it was sent, with older answers of other agents. Only
what it added is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    convert_to_messages,
)

from .answer_content import is_words, parts_of_message

__all__ = ["MESSAGES", "STRUCTURED", "chosen_answer"]

MESSAGES: Final = "messages"
STRUCTURED: Final = "structured_response"
# Of a long answer no more of the last messages are read.
_MAX_READ: Final = 1000


def chosen_answer(output: object, sent: object, *, name: str) -> object:
    """Return the message or the value that answers a task; None if nothing does.

    The last message, if it is the model's and says something. Otherwise the structured response,
    and then the last message of the model that says something: some models end with an empty
    message after their last tool call. An output without messages is the answer as a whole.

    Args:
        output: The child's verified output.
        sent: The input that the child was sent.
        name: The name of the child's own messages, which it may repeat.
    """
    if not isinstance(output, Mapping):
        return output
    structured = output.get(STRUCTURED)
    messages = _listed(output.get(MESSAGES))
    if messages is None and structured is None:
        return output if any(each is not None for each in output.values()) else None
    if messages is None:
        return structured
    asked = _listed(sent.get(MESSAGES)) if isinstance(sent, Mapping) else None
    new = _from_the_end(messages, list(_read(asked or [])), name)
    last = next(new, None)
    if last is not None and _says_something(last):
        return last
    if structured is not None:
        return structured
    return next((each for each in new if _says_something(each)), None)


def _listed(value: object) -> Sequence[object] | None:
    """Return the messages of a state, in any form of LangChain's; None if it holds others."""
    if isinstance(value, BaseMessage | Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        return None
    return value if not value or next(_read(value), None) is not None else None


def _read(values: Sequence[object]) -> Iterator[BaseMessage]:
    """Read values as messages, and pass over those that are none. A text alone is none."""
    for each in values:
        if isinstance(each, BaseMessage):
            yield each
        elif isinstance(each, dict | list | tuple):
            try:
                found = convert_to_messages([cast(MessageLikeRepresentation, each)])
            except Exception:  # noqa: S112 - LangChain raises many types if it is no message
                continue
            yield from found


def _from_the_end(
    values: Sequence[object], asked: list[BaseMessage], name: str
) -> Iterator[BaseMessage]:
    """Read the messages that the child added, the last first.

    Ids alone don't tell them: a child that converts messages, or removes and adds them again, gives
    other ones. If the output begins with what was sent, the rest is new. Otherwise the child
    returned another part of the conversation: only what comes after the last message of a person
    or of those sent is new. If that wasn't the last one sent, words of other agents aren't either.
    """
    known = [(type(each), each.content) for each in asked]
    ids = {each.id for each in asked if each.id is not None}
    begins = [(type(each), each.content) for each in _read(values[: len(known)])]
    others: list[object] = []
    if begins == known:
        new = _read(values[len(known) :][: -_MAX_READ - 1 : -1])
    else:
        after, is_last_sent = _after_what_was_sent(values, known)
        new = iter(after)
        if not is_last_sent:
            others = [e.content for e in asked if isinstance(e, AIMessage) and e.name != name]
    for message in new:
        is_sent = message.id is not None and message.id in ids
        if not is_sent and not (isinstance(message, AIMessage) and message.content in others):
            yield message


def _after_what_was_sent(
    values: Sequence[object], known: Sequence[tuple[type, object]]
) -> tuple[list[BaseMessage], bool]:
    """Return the last messages, the last first, and whether they follow the last one sent."""
    found: list[BaseMessage] = []
    for message in _read(values[: -_MAX_READ - 1 : -1]):
        this = (type(message), message.content)
        if isinstance(message, HumanMessage) or (
            not isinstance(message, AIMessage) and this in known
        ):
            return found, bool(known) and this == known[-1]
        found.append(message)
    return found, False


def _says_something(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and any(map(is_words, parts_of_message(message)))
