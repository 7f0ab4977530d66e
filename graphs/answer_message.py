"""Turn the result of a spawn into one AI message, whose metadata the parent writes itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import asdict, is_dataclass
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage
from pydantic import BaseModel
from typing_extensions import TypedDict

from .answer_choice import STRUCTURED, chosen_answer
from .answer_content import (
    Attachments,
    Content,
    as_json,
    is_words,
    parts_of_message,
    text_block,
)
from .spawn.results import SpawnResult, SpawnTask, Status, error_in_words, make_result

__all__ = ["ANSWER_KEY", "AnswerMetadata", "answer_message", "no_answer", "structured_answer"]

ANSWER_KEY: Final = "pipelit"
"""The key of ``AnswerMetadata`` in a message's ``response_metadata``.

``response_metadata`` describes how a message was made. Checkpointers, LangGraph Server,
langgraph-supervisor and langgraph-swarm keep it, and LangChain's integrations don't send it to a
model provider, as several do with parts of ``additional_kwargs``.
"""


class AnswerMetadata(TypedDict):
    """What the parent knows about an answer.

    Attributes:
        agent: The child's agent.
        status: As in ``SpawnResult``. Only ``verified`` is an answer.
        bound: Whether the proof is bound to request and answer.
        proved_at: The time of the proof, ISO 8601 in UTC, or None.
        request: The SHA-256 of the request, 64 hexadecimal digits, or None if none was sent.
    """

    agent: str
    status: Status
    bound: bool
    proved_at: str | None
    request: str | None


def answer_message(
    result: SpawnResult,
    task: SpawnTask | None,
    *,
    name: str,
    attachments: Collection[str],
) -> AIMessage:
    """Return a new AI message with the answer, or with the words that there is none.

    Nothing of the child's message is used but its texts, and its images and files as far as
    ``attachments`` says, and only if the answer is verified. The message always has text.

    Args:
        result: The result of the child's task.
        task: The task; None if there was nothing to send.
        name: The name of the message.
        attachments: The media types of images and files that are in the message.
    """
    content: Content
    if result["status"] == "verified":
        content = _content_of(result, task, name, attachments)
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
    return SpawnResult({**make_result(agent, "failed", error=error), "index": 0})


def structured_answer(result: SpawnResult) -> object:
    """Return the ``structured_response`` of a verified answer; None if it has none.

    An instance of a class that the reader knows stays one. Anything else becomes JSON, because
    packages write it as JSON, and a value of a child that isn't would end the lead's run.
    """
    output = result["output"]
    if result["status"] != "verified" or not isinstance(output, Mapping):
        return None
    value = output.get(STRUCTURED)
    return value if _is_known_object(value) else as_json(value)


def _is_known_object(value: object) -> bool:
    """Return whether a value is a model or a dataclass that can be written as JSON."""
    try:
        if isinstance(value, BaseModel) and not isinstance(value, BaseMessage):
            value.model_dump_json()
        elif is_dataclass(value) and not isinstance(value, type):
            json.dumps(asdict(value))
        else:
            return False
    except Exception:
        # A child may have filled a field of any type with anything.
        return False
    return True


def _content_of(
    result: SpawnResult, task: SpawnTask | None, name: str, attachments: Collection[str]
) -> Content:
    """Return the answer, in words and as images and files of the accepted media types."""
    answer = chosen_answer(result["output"], task and task["input"], name=name)
    if answer is None:
        return f"{result['agent']} answered, and proved it, but its answer is empty."
    if not isinstance(answer, BaseMessage):
        return answer if isinstance(answer, str) and answer.strip() else _json_text(as_json(answer))
    content, words = _blocks_of(answer, result["agent"], Attachments(attachments))
    if not words:
        # Packages take only the text of an answer, and one of them takes an older text instead.
        content.insert(0, text_block(f"{result['agent']} answered without words."))
    if all(block["type"] == "text" for block in content):
        return "".join(str(block["text"]) for block in content)
    return list(content)


def _blocks_of(
    message: BaseMessage, agent: str, found: Attachments
) -> tuple[list[dict[str, object]], bool]:
    """Return the blocks of an answer, and whether it has words."""
    content: list[dict[str, object]] = []
    texts: list[str] = []
    words = False

    def flush() -> None:
        # A provider refuses an empty text.
        if text := "".join(texts).strip("\n"):
            content.append(text_block(text))
        texts.clear()

    for part in parts_of_message(message):
        if isinstance(part, str):
            texts.append(part)
            words = words or is_words(part)
            continue
        made = found.add(agent, part)
        if "left_out" in made:
            texts.append(f"\n[left out: {_json_text(made['left_out'])}]\n")
            words = True
            continue
        flush()
        content.append(found.blocks[-1][1])
    flush()
    return content, words


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _failure_words(result: SpawnResult) -> str:
    agent = result["agent"]
    return (
        f"There is no answer from {agent}. This message isn't from {agent}: it says why no proven "
        f"answer can be used. Status: {result['status']}. Reason: {error_in_words(result)}."
    )
