"""The stored form of questions and answers, and the bytes under their tags (MACs).

This module reads no clock, database or key store. Each field is tagged with its length (u32,
big-endian; see ``Keyring.mac``), so two different records never have the same bytes.
"""

from __future__ import annotations

import hmac
import json
import math
import re
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from pipelit_agents.approvals.values import State, Verdict
from pipelit_agents.protocol.usernames import is_username
from pipelit_agents.sealing.keyring import Keyring, Sealed
from pipelit_agents.sealing.purposes import APPROVAL_ANSWER, APPROVAL_REQUEST

__all__ = [
    "AnswerRow",
    "QuestionRow",
    "Step",
    "answer_fields",
    "answer_is_ours",
    "approvers_of",
    "is_digest",
    "is_id",
    "key_age",
    "question_fields",
    "question_is_ours",
    "step_at",
    "steps_of",
    "stored_steps",
]

# Two labels, so that the tag of a question is never the tag of an answer.
REQUEST: Final = APPROVAL_REQUEST
ANSWER: Final = APPROVAL_ANSWER
# Begins the fields of rows that have more than those of the first form. There it is an id.
_SECOND_FORM: Final = b"v2"
_ID: Final = re.compile(r"apr_[0-9a-f]{32}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")

KeyAge = Literal["newest", "older", "foreign"]


class QuestionRow(NamedTuple):
    """A stored question. Only the tag shows that the values have these types.

    The names ``approvers`` and ``denied_by`` are JSON lists, and ``rule`` is one of steps.
    ``call`` is the key of a tool call, and ``starts`` counts how often it was started. ``shown`` is
    None if only the digest is known, or if the value wasn't read.
    """

    id: str
    digest: str
    approvers: str
    asked_by: str
    thread: str
    created_at: float
    expires_at: float
    state: State
    denied_by: str = ""
    mac: str = ""
    agent: str = ""
    rule: str = ""
    call: str = ""
    starts: int = 0
    shown: Sealed | None = None


class Step(NamedTuple):
    """The people who are asked in a part of a question's time, and how many must approve."""

    people: tuple[str, ...]
    at_least: int
    begins: float
    until: float


class AnswerRow(NamedTuple):
    """A stored answer. Only the tag shows that the values have these types."""

    approval_id: str
    digest: str
    username: str
    verdict: Verdict
    factor_kind: str
    factor: str
    at: float
    mac: str = ""
    reason: Sealed | None = None
    # Answers are numbered in the order in which they are written.
    seq: int = 0


def is_id(value: object) -> bool:
    """Return whether a stored or passed value has the form of a question's id."""
    return isinstance(value, str) and _ID.match(value) is not None


def is_digest(value: object) -> bool:
    """Return whether a stored or passed value has the form of a digest."""
    return isinstance(value, str) and _DIGEST.match(value) is not None


def approvers_of(stored: object) -> tuple[str, ...]:
    """Return the names in a stored list; empty if it isn't a list of usernames."""
    try:
        names = json.loads(stored) if isinstance(stored, str) else None
    except (ValueError, RecursionError):
        return ()
    return tuple(names) if isinstance(names, list) and all(map(is_username, names)) else ()


def stored_steps(steps: Sequence[Step]) -> str:
    """Return the stored form of a rule."""
    return json.dumps(
        [{"at_least": s.at_least, "people": s.people, "until": s.until} for s in steps],
        separators=(",", ":"),
    )


def steps_of(row: QuestionRow) -> tuple[Step, ...]:
    """Return the steps of a question; empty if its rule is malformed."""
    names = approvers_of(row.approvers)
    if not row.rule:
        return (Step(names, 1, row.created_at, row.expires_at),)
    steps, begins = [], row.created_at
    try:
        for each in json.loads(row.rule):
            people = approvers_of(json.dumps(each["people"]))
            steps.append(Step(people, each["at_least"], begins, each["until"]))
            begins = steps[-1].until
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    asked = {name for step in steps for name in step.people}
    formed = (
        stored_steps(steps) == row.rule
        and asked == set(names)
        and all(_is_moment(s.until) and s.begins < s.until for s in steps)
        and all(type(s.at_least) is int and 1 <= s.at_least <= len(set(s.people)) for s in steps)
        and begins == row.expires_at
    )
    return tuple(steps) if formed else ()


def step_at(steps: Sequence[Step], now: float) -> Step:
    """Return the step that a question is in; the last one after its end."""
    return next((step for step in steps if now < step.until), steps[-1])


def question_fields(row: QuestionRow) -> list[bytes]:
    """Return the fields under the tag of a question; empty if the row is malformed."""
    texts = (row.id, row.digest, row.approvers, row.asked_by, row.thread, row.state)
    more = (row.agent, row.rule, row.call)
    formed = (
        all(isinstance(each, str) and each.isascii() for each in (*texts, *more))
        and is_id(row.id)
        and is_digest(row.digest)
        and approvers_of(row.approvers)
        and _is_moment(row.created_at)
        and _is_moment(row.expires_at)
        and (row.denied_by == "" or approvers_of(row.denied_by))
        and (row.agent == "" or is_username(row.agent))
        and (row.call == "" or is_digest(row.call))
        and type(row.starts) is int
        and steps_of(row)
    )
    if not formed:
        return []
    if any(more) or row.starts:
        fields = (*texts, row.denied_by, *more, str(row.starts))
        times = (row.created_at, row.expires_at)
        return [_SECOND_FORM, *(each.encode() for each in fields), *map(_moment, times)]
    return [
        *(each.encode() for each in texts),
        _moment(row.created_at),
        _moment(row.expires_at),
        # Only if it is set, so that tags from before this column existed stay valid.
        *([row.denied_by.encode()] if row.denied_by else []),
    ]


def answer_fields(question: QuestionRow, row: AnswerRow) -> list[bytes]:
    """Return the fields under the tag of an answer: its own, and the question's constant ones."""
    texts = (row.approval_id, row.digest, row.username, row.verdict, row.factor_kind, row.factor)
    more = (question.agent, question.rule, question.call)
    formed = (
        question_fields(question)
        and all(isinstance(each, str) and each.isascii() for each in texts)
        and row.approval_id == question.id
        and row.digest == question.digest
        and _is_moment(row.at)
    )
    if not formed:
        return []
    return [
        *([_SECOND_FORM, *(each.encode() for each in more)] if any(more) else []),
        *(each.encode() for each in texts),
        question.approvers.encode(),
        question.asked_by.encode(),
        question.thread.encode(),
        _moment(question.created_at),
        _moment(question.expires_at),
        _moment(row.at),
    ]


def question_is_ours(keyring: Keyring, row: QuestionRow) -> bool:
    """Return whether one of the keys has tagged a question."""
    return key_age(keyring, REQUEST, question_fields(row), row.mac) != "foreign"


def answer_is_ours(keyring: Keyring, question: QuestionRow, row: AnswerRow) -> bool:
    """Return whether one of the keys has tagged an answer to this question."""
    return key_age(keyring, ANSWER, answer_fields(question, row), row.mac) != "foreign"


def key_age(keyring: Keyring, label: str, fields: Sequence[bytes], mac: object) -> KeyAge:
    """Return which key has made a tag: ``newest``, ``older``, or ``foreign`` for none of them."""
    if not fields or not isinstance(mac, str) or not mac.isascii():
        return "foreign"
    found: KeyAge = "foreign"
    for position, each in enumerate(keyring.macs(label, *fields)):
        if hmac.compare_digest(each, mac):
            found = "older" if position else "newest"
    return found


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _moment(value: float) -> bytes:
    return repr(float(value)).encode()
