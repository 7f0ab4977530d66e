"""What a model receives of its agents' answers: the answer alone, with images and files as blocks.

Text of an agent is always within one JSON string, under ``answer``, ``output`` or ``said``. So it
can't pose as another agent's answer or as the tool's own words, such as those under ``error``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from mimetypes import MimeTypes
from typing import Final, Literal, TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
from pydantic_core import to_jsonable_python

from pipelit_agents._wording import visible_json
from pipelit_agents.graphs import SpawnResult, SpawnTask

__all__ = ["MEDIA_TYPES", "AnswerForm", "Content", "answers_in_words", "required_media_types"]

AnswerForm: TypeAlias = Literal["last_message", "structured", "whole"]
# The content of a tool message.
Content: TypeAlias = str | list[str | dict[str, object]]

# Every provider takes these in tool messages, if it takes any.
MEDIA_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")

# How much of a child's own error the model receives, in characters.
_MAX_SAID: Final = 500
_MESSAGES: Final = "messages"
_STRUCTURED: Final = "structured_response"
# LangChain turns a tool message's content into text if it has a block of another type.
_ATTACHABLE: Final = ("image", "file")
_TEXTS: Final = ("text", "text-plain", "output_text")
_MEDIA_TYPE: Final = re.compile(r"[a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]{0,100}")
_LINK: Final = re.compile(r"https?://[!-~]{1,2000}")
# Without the types that a machine adds.
_FILES: Final = MimeTypes()


class _NoAnswer(Exception):
    """The child's output has nothing of the form that the model is to receive."""


@dataclass
class _Attachments:
    """The images and files of all answers in one tool message."""

    media_types: Collection[str]
    blocks: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def add(self, agent: str, block: Mapping[str, object]) -> dict[str, object]:
        """Return the JSON that takes the place of an image or file in the answer."""
        about = {"type": block["type"]} | {
            name: value
            for name, form in (("mime_type", _MEDIA_TYPE), ("url", _LINK))
            if isinstance(value := block.get(name), str) and form.fullmatch(value)
        }
        made = _attachable(block)
        if made is None or made["mime_type"] not in self.media_types:
            return {"left_out": about}
        number = len(self.blocks) + 1
        if made["type"] == "file":
            # A name of the child's would be a text outside of the JSON.
            ending = _FILES.guess_extension(str(made["mime_type"])) or ""
            made["extras"] = {"filename": f"attachment-{number}{ending}"}
        self.blocks.append((agent, made))
        return {"attachment": number, **about}


def answers_in_words(
    results: Sequence[SpawnResult],
    tasks: Sequence[SpawnTask],
    form: AnswerForm,
    *,
    attachments: Collection[str],
) -> Content:
    """Return the content of the tool message.

    Args:
        results: The results, in the order of the tasks.
        tasks: The tasks.
        form: Which part of an output the model receives.
        attachments: The media types of images and files that are sent too.

    Returns:
        JSON with one object a task. If there are images or files, a list of blocks: the JSON, then
        each image or file after a text that says whose it is.
    """
    found = _Attachments(attachments)
    answers = [
        {"agent": result["agent"], "status": result["status"]} | _part(result, task, form, found)
        for result, task in zip(results, tasks, strict=True)
    ]
    text = visible_json(json.dumps(answers, ensure_ascii=False))
    if not found.blocks:
        return text
    content: list[str | dict[str, object]] = [_text_block(text)]
    for number, (agent, block) in enumerate(found.blocks, start=1):
        content += [_text_block(f"Attachment {number}, of {agent}:"), block]
    return content


def required_media_types(media_types: object) -> tuple[str, ...]:
    """Validate the media types of images and files that a model receives.

    Raises:
        TypeError: They aren't a list.
        ValueError: One isn't a media type.
    """
    if isinstance(media_types, str) or not isinstance(media_types, Collection):
        raise TypeError("attachments must be a list of media types: ['image/png']")
    for each in media_types:
        if not isinstance(each, str) or not _MEDIA_TYPE.fullmatch(each):
            raise ValueError(f"attachments: {each!r} isn't a media type, such as 'image/png'")
    return tuple(media_types)


def _part(
    result: SpawnResult, task: SpawnTask, form: AnswerForm, found: _Attachments
) -> dict[str, object]:
    if result["status"] != "verified":
        return _error(result)
    output = result["output"]
    if form == "whole":
        return {"output": _as_json(output)}
    try:
        if form == "structured":
            return {"answer": _structured(output)}
        answer = _last_answer(output, task["input"])
    except _NoAnswer as error:
        return {"error": str(error)}
    if isinstance(answer, BaseMessage):
        return {"answer": _message_answer(answer, result["agent"], found)}
    return {"answer": _as_json(answer)}


def _error(result: SpawnResult) -> dict[str, object]:
    error = result["error"] or ""
    if result["status"] == "failed" and result["proved_at"] is not None:
        # The child's own words: a class of an exception may have any name.
        return {"error": "its graph failed", "said": error[:_MAX_SAID]}
    return {"error": error}


def _structured(output: object) -> object:
    value = output.get(_STRUCTURED) if isinstance(output, Mapping) else None
    if value is None:
        raise _NoAnswer("the agent gave no structured_response, which this tool returns only")
    return _as_json(value)


def _last_answer(output: object, sent: object) -> object:
    """Return the message or the value that answers a task.

    The last message, if it is the model's and not empty. Otherwise the structured response, and
    then the last message of the model that isn't empty: some models end with an empty message
    after their last tool call. An output without messages is the answer as a whole.
    """
    if not isinstance(output, Mapping):
        return output
    messages, structured = _messages_in(output.get(_MESSAGES)), output.get(_STRUCTURED)
    if messages is None:
        return output if structured is None else structured
    asked = _messages_in(sent.get(_MESSAGES)) if isinstance(sent, Mapping) else None
    new = _new_messages(messages, asked or [])
    if new and _is_answer(new[-1]):
        return new[-1]
    if structured is not None:
        return structured
    for message in reversed(new):
        if _is_answer(message):
            return message
    rest = {name: each for name, each in output.items() if name not in (_MESSAGES, _STRUCTURED)}
    if any(each is not None for each in rest.values()):
        return rest
    raise _NoAnswer("the agent proved that it ran, but gave no answer")


def _messages_in(value: object) -> list[BaseMessage] | None:
    """Return the messages of a state, in any form of LangChain's; None if it holds others."""
    if not isinstance(value, list | tuple):
        return None
    found: list[BaseMessage] = []
    for each in value:
        if isinstance(each, BaseMessage | dict | list | tuple):
            try:
                found += convert_to_messages([each])
            except Exception:  # noqa: S112 - LangChain raises many types if it is no message
                continue
    return found if found or not value else None


def _new_messages(messages: list[BaseMessage], asked: list[BaseMessage]) -> list[BaseMessage]:
    """Return the messages that the child added: those sent to it may hold older answers."""
    sent = [(type(each), each.content) for each in asked]
    found = [(type(each), each.content) for each in messages]
    if found[: len(sent)] == sent:
        return messages[len(sent) :]
    # The child returned only a part of the conversation.
    for index in range(len(found) - 1, -1, -1):
        if found[index] in sent and not isinstance(messages[index], AIMessage):
            return messages[index + 1 :]
    return messages


def _is_answer(message: BaseMessage) -> bool:
    return isinstance(message, AIMessage) and any(
        not isinstance(each, str) or each.strip() for each in _parts(message)
    )


def _parts(message: BaseMessage) -> list[str | Mapping[str, object]]:
    """Return the texts and the other readable blocks of a message, in order."""
    if isinstance(message.content, str):
        return [message.content]
    try:
        blocks: Sequence[object] = message.content_blocks
    except Exception:
        # A child may have filled a provider's form with anything.
        blocks = message.content
    found: list[str | Mapping[str, object]] = []
    for block in blocks:
        if isinstance(block, str):
            found.append(block)
        elif isinstance(block, Mapping):
            inner = block.get("value")
            if block.get("type") == "non_standard" and isinstance(inner, Mapping):
                block = inner
            kind, text = block.get("type"), block.get("text")
            if kind in _TEXTS and isinstance(text, str):
                found.append(text)
            elif kind in (*_ATTACHABLE, "audio", "video"):
                found.append(block)
    return found


def _message_answer(message: BaseMessage, agent: str, found: _Attachments) -> object:
    parts = _parts(message)
    if all(isinstance(each, str) for each in parts):
        return "".join(map(str, parts))
    return [each if isinstance(each, str) else found.add(agent, each) for each in parts]


def _attachable(block: Mapping[str, object]) -> dict[str, object] | None:
    """Return a block with only the fields that hold an image or a file, or None.

    Links and ids of files are left out: the model's provider, or this process, would fetch what a
    child names. Data that isn't valid would make each later call of the model fail.
    """
    kind, data, media_type = block["type"], block.get("base64"), block.get("mime_type")
    if kind not in _ATTACHABLE or not isinstance(data, str) or not data:
        return None
    if not isinstance(media_type, str):
        return None
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return None
    return {"type": kind, "base64": data, "mime_type": media_type}


def _named(value: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    """Return the values of a dict by text: of the keys 1 and "1", the first is "1 (int)"."""
    taken = {key for key in value if isinstance(key, str)}
    for key, each in value.items():
        name = str(key)
        if not isinstance(key, str):
            while name in taken:
                name += f" ({type(key).__name__})"
            taken.add(name)
        yield name, each


def _text_block(text: str) -> dict[str, object]:
    return {"type": "text", "text": text}


def _as_json(value: object) -> object:
    """Return a verified output for the model: dates, sets and similar values as JSON."""
    if isinstance(value, BaseMessage):
        return {"type": value.type, "content": value.content}
    if isinstance(value, Mapping):
        return {name: _as_json(each) for name, each in _named(value)}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_as_json(each) for each in value]
    return to_jsonable_python(value, bytes_mode="base64", fallback=str)
