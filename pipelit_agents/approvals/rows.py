"""Read questions and answers, and set the state of a question. Forging a row needs the key.

There are three tables. Each question and each answer has a tag (HMAC-SHA256 with a key derived
from ``FIELD_ENCRYPTION_KEY``). The tag of a question includes its state. A use is also recorded in
a table whose rows are never changed. So write access to the database without the key isn't enough
to make an approval. Nor is it enough to restore a used, denied or expired one, unless a copy of
the previous rows was kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, delete, select, text, update

from pipelit_agents._core import Core
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.refusals import FOREIGN, NOT_OURS, UNKNOWN, Refusal
from pipelit_agents.approvals.values import ApprovalDecision, State
from pipelit_agents.database.models import (
    ApprovalAnswerRow,
    ApprovalPersonRow,
    ApprovalRow,
    ApprovalUseRow,
)
from pipelit_agents.database.planted import all_rows
from pipelit_agents.identity.evidence import utc

__all__ = [
    "QUESTIONS",
    "WITHOUT_SHOWN",
    "decision_of",
    "find_question",
    "last_use",
    "lock_question",
    "mark_used",
    "read_answers",
    "read_question",
    "read_questions",
    "set_state",
    "was_used",
]

_CLOSED: Final = frozenset({"approved", "denied", "expired", "used"})
_COLUMNS: Final = [ApprovalRow.__table__.c[name] for name in tags.QuestionRow._fields]
QUESTIONS: Final = select(*_COLUMNS)
WITHOUT_SHOWN: Final = select(*(each for each in _COLUMNS if each.name != "shown"))
_ANSWERS: Final = select(*(ApprovalAnswerRow.__table__.c[name] for name in tags.AnswerRow._fields))
_USE: Final = text(
    "INSERT INTO pipelit_approval_uses (approval_id, start, used_at) "
    "VALUES (:approval_id, :start, :used_at) ON CONFLICT (approval_id, start) DO NOTHING"
)


def read_questions(
    connection: Connection,
    *where: ColumnElement[bool],
    newest: bool = False,
    with_shown: bool = True,
) -> list[tags.QuestionRow]:
    """Return questions, oldest first. Their tags are not verified.

    Args:
        connection: The transaction.
        where: Conditions on the columns of ``ApprovalRow``.
        newest: Return only the newest.
        with_shown: Whether to read the displayed values.
    """
    query = (QUESTIONS if with_shown else WITHOUT_SHOWN).where(*where)
    if newest:
        query = query.order_by(ApprovalRow.created_at.desc()).limit(1)
    else:
        query = query.order_by(ApprovalRow.created_at, ApprovalRow.id)
    return [tags.QuestionRow(*row) for row in all_rows(connection, query)]


def read_question(connection: Connection, identifier: str) -> tags.QuestionRow | None:
    """Return the question with an id. Its tag is not verified."""
    if not tags.is_id(identifier):
        return None
    found = read_questions(connection, ApprovalRow.id == identifier)
    return found[0] if found else None


def lock_question(core: Core, connection: Connection, wanted: str, people: Iterable[str]) -> None:
    """Lock people's accounts, and then the questions with an id or with a digest.

    Accounts first, then approvals: all code that locks both uses this order.
    """
    named = read_question(connection, wanted)
    core.database.lock(connection, *(f"account:{each}" for each in people), shared=True)
    core.database.lock(connection, f"approval:{wanted if named is None else named.digest}")


def find_question(moment: Moment, identifier: str) -> tags.QuestionRow | Refusal:
    """Return the question with an id, if one of our keys has tagged it."""
    row = read_question(moment.connection, identifier)
    if row is None:
        # An id permits nothing, so it can be repeated; its form was checked.
        return Refusal(f"there is no question {identifier} here", UNKNOWN)
    if not tags.question_is_ours(moment.keyring, row):
        return Refusal(f"the question {identifier} {NOT_OURS}", FOREIGN)
    return row


def read_answers(connection: Connection, identifier: str) -> list[tags.AnswerRow]:
    """Return the answers to a question in the order of writing. Their tags are not verified."""
    query = _ANSWERS.where(ApprovalAnswerRow.approval_id == identifier)
    return [
        tags.AnswerRow(*row) for row in all_rows(connection, query.order_by(ApprovalAnswerRow.seq))
    ]


def was_used(connection: Connection, row: tags.QuestionRow) -> bool:
    """Return whether the approval of a question was used more often than the question says."""
    used = select(ApprovalUseRow.approval_id).where(
        ApprovalUseRow.approval_id == row.id, ApprovalUseRow.start > row.starts
    )
    return connection.scalar(used.limit(1)) is not None


def last_use(connection: Connection, identifier: str) -> tuple[datetime, bool] | None:
    """Return when an approval was last used, and whether the result of the call is stored."""
    found = connection.execute(
        select(ApprovalUseRow.used_at, ApprovalUseRow.result.is_not(None))
        .where(ApprovalUseRow.approval_id == identifier)
        .order_by(ApprovalUseRow.start.desc())
        .limit(1)
    ).one_or_none()
    try:
        return None if found is None else (utc(found[0]), bool(found[1]))
    except (TypeError, ValueError, OverflowError, OSError):
        # The row has no tag, so anything may be in it.
        return None


def set_state(moment: Moment, row: tags.QuestionRow, state: State, **more: Any) -> bool:
    """Set a question's state; return False if it isn't in the state it was read in any more.

    Args:
        moment: The transaction.
        row: The question as it was read.
        state: The new state.
        more: Other columns that change: ``denied_by`` or ``starts``.
    """
    changed = row._replace(state=state, **more)
    tag = moment.fitting_keyring.mac(tags.REQUEST, *tags.question_fields(changed))
    moved = moment.connection.execute(
        update(ApprovalRow)
        .where(ApprovalRow.id == row.id, ApprovalRow.state == row.state, ApprovalRow.mac == row.mac)
        .values(state=state, denied_by=changed.denied_by, starts=changed.starts, mac=tag)
    )
    if moved.rowcount == 1 and state in _CLOSED and not (state == "approved" and row.rule):
        # No person has to answer it any more.
        answered = delete(ApprovalPersonRow).where(ApprovalPersonRow.approval_id == row.id)
        moment.connection.execute(answered)
    return moved.rowcount == 1


def mark_used(moment: Moment, row: tags.QuestionRow) -> bool:
    """Mark an approval as used; return False if it was used before.

    The approval of a tool call is used once for each start: see ``CallApprovals.suspend``.
    """
    # Recorded in two tables, so restoring a row in one of them isn't enough.
    values = {"approval_id": row.id, "start": row.starts + 1, "used_at": moment.now}
    first = moment.connection.execute(_USE, values).rowcount == 1
    starts = {"starts": row.starts + 1} if row.call else {}
    return set_state(moment, row, "used", **starts) and first


def decision_of(
    row: tags.QuestionRow, answer: tags.AnswerRow, reason: str = ""
) -> ApprovalDecision:
    """Return the public form of an answer.

    Args:
        row: The question.
        answer: The answer.
        reason: The decrypted reason.
    """
    return ApprovalDecision(
        id=row.id,
        digest=row.digest,
        decision=answer.verdict,
        actor=answer.username,
        factor=answer.factor_kind,
        at=utc(answer.at),
        expires_at=utc(row.expires_at),
        approvers=tags.approvers_of(row.approvers),
        asked_by=row.asked_by,
        thread=row.thread,
        reason=reason,
    )
