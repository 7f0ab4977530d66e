"""Turn the result of a spawn into one AI message, whose metadata the parent writes itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from .conversation import as_messages, without_reasoning
from .spawn.results import SpawnResult, Status

__all__ = ["ANSWER_KEY", "AnswerMetadata", "answer_message", "no_answer", "structured_answer"]

ANSWER_KEY: Final = "pipelit"
"""The key of :class:`AnswerMetadata` in a message's ``response_metadata``.

``response_metadata`` describes how a message was made. Checkpointers, LangGraph Server,
langgraph-supervisor and langgraph-swarm keep it, and LangChain's integrations don't send it to a
model provider, as several do with parts of ``additional_kwargs``.
"""

# How much of a child's own error a message quotes, in characters.
_MAX_QUOTED: Final = 500


class AnswerMetadata(TypedDict):
    """What the parent knows about an answer.

    Attributes:
        agent: The child's agent.
        status: As in :class:`SpawnResult`. Only ``verified`` is an answer.
        bound: Whether the proof is bound to request and answer.
        proved_at: The time of the proof, ISO 8601 in UTC, or None.
        request: The SHA-256 of the request, 64 hexadecimal digits, or None if none was sent.
    """

    agent: str
    status: Status
    bound: bool
    proved_at: str | None
    request: str | None


def answer_message(result: SpawnResult, *, name: str, sent: Collection[str]) -> AIMessage:
    """Return a new AI message with the answer, or with the words that there is none.

    Nothing of the child's message is used but its content, and only if the answer is verified.

    Args:
        result: The result of the child's task.
        name: The name of the message.
        sent: The ids of the messages that were sent to the child, which are no answers.
    """
    content: str | list[str | dict[str, object]]
    if result["status"] == "verified":
        content = _content_of(result, sent)
    else:
        content = _failure_words(result)
    metadata = AnswerMetadata(
        agent=result["agent"],
        status=result["status"],
        bound=result["bound"],
        proved_at=result["proved_at"],
        request=result["request"],
    )
    return AIMessage(
        content, name=name, id=str(uuid.uuid4()), response_metadata={ANSWER_KEY: metadata}
    )


def no_answer(agent: str, error: str) -> SpawnResult:
    """Return the result of a question that couldn't be sent."""
    return SpawnResult(
        index=0,
        request=None,
        agent=agent,
        status="failed",
        output=None,
        error=error,
        bound=False,
        proved_at=None,
    )


def structured_answer(result: SpawnResult) -> object:
    """Return the ``structured_response`` of a verified answer; None if it has none."""
    output = result["output"]
    if result["status"] != "verified" or not isinstance(output, Mapping):
        return None
    return output.get("structured_response")


def _content_of(result: SpawnResult, sent: Collection[str]) -> str | list[str | dict[str, object]]:
    """Return the content of the last AI message that says something and that is new."""
    output = result["output"]
    found = output.get("messages") if isinstance(output, Mapping) else None
    for message in reversed(_messages_in(found)):
        if isinstance(message, AIMessage) and message.id not in sent:
            content = message.content
            if isinstance(content, list):
                content = [each for each in without_reasoning(content) if _says_something(each)]
            if content and _says_something(content):
                return content
    structured = structured_answer(result)
    if structured is not None:
        return json.dumps(
            to_jsonable_python(structured, bytes_mode="base64", fallback=str), ensure_ascii=False
        )
    return f"{result['agent']} answered, and proved it, but its answer is empty: it has no message."


def _messages_in(value: object) -> list[BaseMessage]:
    found: list[BaseMessage] = []
    for each in value if isinstance(value, list | tuple) else [value]:
        try:
            found += as_messages(each)
        except Exception:  # noqa: S112 - LangChain raises if it isn't in one of the forms of a message
            continue
    return found


def _says_something(content: object) -> bool:
    """Return whether a message's content, or a block of it, holds something to read or to show."""
    if isinstance(content, dict) and content.get("type", "text") == "text":
        content = content.get("text")
    return bool(content.strip()) if isinstance(content, str) else bool(content)


def _failure_words(result: SpawnResult) -> str:
    agent, status, error = result["agent"], result["status"], result["error"] or "no reason"
    if result["proved_at"] is not None:
        # The child's own words, so they are marked as a quotation.
        error = f"its graph failed with the error {json.dumps(error[:_MAX_QUOTED])}"
    return (
        f"There is no answer from {agent}. This message isn't from {agent}: it says why no proven "
        f"answer can be used. Status: {status}. Reason: {error}."
    )
