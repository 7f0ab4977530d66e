"""The records of the register of approvals, as they are stored, and their form as JSON.

Nothing in them is trusted: a row may have been planted, with values of any type, and a line of a
file may have been edited. Only the tags (see ``pipelit_agents.approvals.tags``) say more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias, TypeVar

from pipelit_agents.approvals import tags
from pipelit_agents.protocol.payload import Json

__all__ = [
    "Answer",
    "Audited",
    "Known",
    "Malformed",
    "Question",
    "Record",
    "Unreadable",
    "Use",
    "answer_row",
    "name_of",
    "plain",
    "question_row",
    "record_of",
    "to_json",
]

# What is known of the value that was displayed, or of a reason: there is none, it wasn't exported,
# it can't be decrypted, or it is here.
Known: TypeAlias = Literal["none", "sealed", "unreadable", "here"]
Row: TypeAlias = Mapping[str, Json]
R = TypeVar("R")

_INTEGERS: Final = range(-(2**63), 2**63)
# Characters of a planted value in a message.
_MAX_SHOWN: Final = 60


class Malformed(ValueError):
    """A line of a file has no record."""


class Answer(NamedTuple):
    """A stored answer.

    Attributes:
        row: Its columns, without the reason.
        known: What is known of the reason.
        reason: The reason, if it is here.
    """

    row: Row
    known: Known
    reason: Json


class Use(NamedTuple):
    """A stored use of an approval.

    Attributes:
        row: Its columns, without the result.
        known: Whether the result of a tool call is stored; it is never exported.
    """

    row: Row
    known: Known


class Question(NamedTuple):
    """A stored question with what belongs to it.

    Attributes:
        row: Its columns, without the displayed value.
        known: What is known of the displayed value.
        shown: The displayed value, if it is here.
        answers: Its answers, in the order of writing.
        uses: The uses of its approval.
    """

    row: Row
    known: Known
    shown: Json
    answers: tuple[Answer, ...]
    uses: tuple[Use, ...]


class Audited(NamedTuple):
    """An entry of the audit about an approval.

    Attributes:
        row: Its columns.
    """

    row: Row


class Unreadable(NamedTuple):
    """A row that the database can't return.

    Attributes:
        table: The table.
        number: Its number there.
    """

    table: str
    number: Json


Record: TypeAlias = Question | Answer | Use | Audited | Unreadable


def plain(value: object) -> Json:
    """Return a stored value as JSON; what JSON doesn't have becomes an object that no tag fits."""
    if value is None or type(value) in (str, bool):
        return value  # type: ignore[return-value]
    if type(value) is int and value in _INTEGERS:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    return {"not JSON": f"{value!r:.{_MAX_SHOWN}}"}


def to_json(record: Record) -> dict[str, Json]:
    """Return the JSON object of a record."""
    match record:
        case Question():
            return {
                "type": "question",
                **_opened("shown", record.known, record.shown),
                **_rows(record.row),
                "answers": [to_json(each) for each in record.answers],
                "uses": [to_json(each) for each in record.uses],
            }
        case Answer():
            known = _opened("reason", record.known, record.reason)
            return {"type": "answer", **known, **_rows(record.row)}
        case Use():
            return {"type": "use", **_opened("result", record.known, None), **_rows(record.row)}
        case Audited():
            return {"type": "audit", **_rows(record.row)}
    return {"type": "unreadable", "table": record.table, "number": record.number}


def record_of(value: Json) -> Record:
    """Return the record of a JSON object.

    Raises:
        Malformed: It isn't one; the message says what it lacks.
    """
    if not isinstance(value, dict):
        raise Malformed("it isn't a JSON object")
    row = value.get("row")
    kind = value.get("type")
    if kind == "unreadable":
        return Unreadable(name_of(value.get("table")), value.get("number"))
    if not isinstance(row, dict):
        raise Malformed('it has no object "row"')
    # A column has a single value, of a size that a database has.
    row = {name: plain(each) for name, each in row.items()}
    match kind:
        case "question":
            answers, uses = _records(value, "answers", Answer), _records(value, "uses", Use)
            return Question(row, _known("shown", value), value.get("shown"), answers, uses)
        case "answer":
            return Answer(row, _known("reason", value), value.get("reason"))
        case "use":
            return Use(row, _known("result", value))
        case "audit":
            return Audited(row)
    raise Malformed(f"its type {name_of(kind)} is unknown")


def _records(value: Mapping[str, Json], name: str, kind: type[R]) -> tuple[R, ...]:
    listed = value.get(name)
    if isinstance(listed, list):
        found = [record_of(each) for each in listed]
        made = tuple(each for each in found if isinstance(each, kind))
        if len(made) == len(found):
            return made
    raise Malformed(f'it has no list "{name}" of records')


def question_row(row: Row) -> tags.QuestionRow:
    """Return the stored form that tags are verified of; missing columns are None."""
    names = tags.QuestionRow._fields
    return tags.QuestionRow._make(row.get(each) if each != "shown" else None for each in names)


def answer_row(row: Row) -> tags.AnswerRow:
    """Return the stored form that tags are verified of; missing columns are None."""
    names = tags.AnswerRow._fields
    return tags.AnswerRow._make(row.get(each) if each != "reason" else None for each in names)


def name_of(value: Json) -> str:
    """Return a stored value for a message: cut, and in ASCII if it may not be what we wrote."""
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}…"
    return ascii(value)[:_MAX_SHOWN]


def _rows(row: Row) -> dict[str, Json]:
    return {"row": dict(row)}


def _opened(name: str, known: Known, value: Json) -> dict[str, Json]:
    return {name: value} if known == "here" else {f"{name}_is": known}


def _known(name: str, value: Mapping[str, Json]) -> Known:
    if name in value:
        return "here"
    match value.get(f"{name}_is"):
        case "none":
            return "none"
        case "sealed":
            return "sealed"
    return "unreadable"
