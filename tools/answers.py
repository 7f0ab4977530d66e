"""What a model receives of its agents' answers: the answer alone, with images and files as blocks.

Text of an agent is always within one JSON string, so it can't pose as another agent's answer or as
the tool's own words.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

from langchain_core.messages import BaseMessage

from pipelit_agents._wording import visible_json
from pipelit_agents.graphs import SpawnResult, SpawnTask
from pipelit_agents.graphs.answer_choice import MESSAGES, STRUCTURED, chosen_answer
from pipelit_agents.graphs.answer_content import (
    Attachments,
    Content,
    as_json,
    parts_of_message,
    text_block,
)
from pipelit_agents.graphs.spawn.results import own_words

__all__ = ["AnswerForm", "answers_in_words"]

AnswerForm: TypeAlias = Literal["last_message", "structured", "whole"]


class _NoAnswer(Exception):
    """The child's output has nothing of the form that the model is to receive."""


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
    found = Attachments(attachments)
    answers = [
        {"agent": result["agent"], "status": result["status"]} | _part(result, task, form, found)
        for result, task in zip(results, tasks, strict=True)
    ]
    text = visible_json(json.dumps(answers, ensure_ascii=False))
    if not found.blocks:
        return text
    content: list[str | dict[str, object]] = [text_block(text)]
    for number, (agent, block) in enumerate(found.blocks, start=1):
        content += [text_block(f"Attachment {number}, of {agent}:"), block]
    return content


def _part(
    result: SpawnResult, task: SpawnTask, form: AnswerForm, found: Attachments
) -> dict[str, object]:
    if result["status"] != "verified":
        return _error(result)
    output = result["output"]
    if form == "whole":
        return {"output": as_json(output)}
    try:
        if form == "structured":
            return {"answer": _structured(output)}
        answer = _last_answer(output, task["input"], result["agent"])
    except _NoAnswer as error:
        return {"error": str(error)}
    if isinstance(answer, BaseMessage):
        return {"answer": _message_answer(answer, result["agent"], found)}
    return {"answer": as_json(answer)}


def _error(result: SpawnResult) -> dict[str, object]:
    said = own_words(result)
    if said is not None:
        return {"error": "its graph failed", "said": said}
    return {"error": result["error"] or ""}


def _structured(output: object) -> object:
    value = output.get(STRUCTURED) if isinstance(output, Mapping) else None
    if value is None:
        raise _NoAnswer("the agent gave no structured_response, which this tool returns only")
    return as_json(value)


def _last_answer(output: object, sent: object, agent: str) -> object:
    """Return the message or the value that answers a task.

    Where no message and no structured response does, the other fields of the output do.
    """
    found = chosen_answer(output, sent, name=agent)
    if found is None and isinstance(output, Mapping):
        rest = {name: each for name, each in output.items() if name not in (MESSAGES, STRUCTURED)}
        found = rest if any(each is not None for each in rest.values()) else None
    if found is None:
        raise _NoAnswer("the agent proved that it ran, but gave no answer")
    return found


def _message_answer(message: BaseMessage, agent: str, found: Attachments) -> object:
    parts = parts_of_message(message)
    if all(isinstance(each, str) for each in parts):
        return "".join(map(str, parts))
    return [each if isinstance(each, str) else found.add(agent, each) for each in parts]
