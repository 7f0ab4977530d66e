"""Use up an approval: find one that is valid now, and mark it in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Final

from sqlalchemy import Connection, select

from pipelit_agents._core import Core
from pipelit_agents.approvals import rows, tags
from pipelit_agents.approvals.approvers import NOBODY, Approver, read_approvers
from pipelit_agents.approvals.refusals import (
    FOREIGN,
    MAX_CLOCK_SKEW,
    NOT_OURS,
    Refusal,
    iso,
    refused_as_closed,
    refused_by_time,
)
from pipelit_agents.approvals.values import ApprovalDecision
from pipelit_agents.database.models import ApprovalAnswerRow, ApprovalRow
from pipelit_agents.errors import NotPermitted
from pipelit_agents.protocol.usernames import OPERATOR

__all__ = ["use"]

_USED_BEFORE: Final = Refusal("it was used before", "used")
_AGAIN: Final = "ask again, and do exactly what was displayed"


def use(core: Core, wanted: str, approvers: Sequence[str], within: float) -> ApprovalDecision:
    """Use up an approval; see :meth:`Approvals.require`.

    Args:
        core: The database, the keys and the clocks.
        wanted: The digest of the action, or the id of a question.
        approvers: The people whose approval is accepted.
        within: The maximum age of the approval, in seconds.
    """
    refusal = Refusal("none of the approvers has approved this", "no approval")
    with core.database.writing(durable=True) as connection:
        digest = wanted
        if tags.is_id(wanted):
            named = rows.read_question(connection, wanted)
            digest = "" if named is None else named.digest
        accounts = [f"account:{each}" for each in approvers]
        core.database.lock(connection, *accounts, shared=True)
        core.database.lock(connection, f"approval:{digest}")
        now = core.shared_now(connection)
        for row in _candidates(connection, wanted):
            found = _valid_answer(core, connection, row, approvers, within, now)
            if isinstance(found, Refusal):
                refusal = found
                if refusal.ends is not None:
                    rows.set_state(core, connection, refusal.ends, "expired")
            elif rows.mark_used(core, connection, row, now):
                core.record(connection, OPERATOR, row.id, "approval.use", row.digest, at=now)
                return rows.decision_of(row, found)
            else:
                refusal = _USED_BEFORE
        core.record(
            connection, OPERATOR, wanted, "approval.use", refusal.reason, outcome="refused", at=now
        )
    raise NotPermitted(f"this may not be done: {refusal.message}; {_AGAIN}")


def _candidates(connection: Connection, wanted: str) -> Sequence[tags.QuestionRow]:
    which = ApprovalRow.id == wanted if tags.is_id(wanted) else ApprovalRow.digest == wanted
    approved = rows.read_questions(connection, which, ApprovalRow.state == "approved")
    # If nothing is approved, the newest question gives the reason.
    return approved or rows.read_questions(connection, which, newest=True)


def _valid_answer(
    core: Core,
    connection: Connection,
    row: tags.QuestionRow,
    approvers: Sequence[str],
    within: float,
    now: float,
) -> tags.AnswerRow | Refusal:
    """Return the answer that makes an approval valid."""
    if not tags.question_is_ours(core.keyring(), row):
        return Refusal(f"its record {NOT_OURS}", FOREIGN)
    if row.state == "pending":
        return Refusal("nobody has answered yet", "pending")
    refusal = refused_as_closed(row) if row.state != "approved" else refused_by_time(row, now)
    if refusal is not None:
        return refusal
    asked = tags.approvers_of(row.approvers)
    for name in tags.approvers_of(row.denied_by):
        if name in asked or name in approvers:
            return Refusal(f"{name!r} denied it afterwards", "denied afterwards")
    people = read_approvers(core, connection, approvers)
    refusal = Refusal("none of the required approvers has approved it", "other approvers")
    for answer in rows.read_answers(connection, row.id):
        if answer.verdict != "approved" or answer.username not in approvers:
            continue
        invalid = _why_invalid(core, row, answer, people, within, now)
        invalid = invalid or _denial_after(connection, answer, {*asked, *approvers})
        if invalid is None:
            return answer
        refusal = invalid
    return refusal


def _why_invalid(
    core: Core,
    row: tags.QuestionRow,
    answer: tags.AnswerRow,
    people: Mapping[str, Approver],
    within: float,
    now: float,
) -> Refusal | None:
    name = answer.username
    if answer.mac == "":
        return Refusal(
            f"{name!r} has since been deactivated, or has ended the second factor", "voided"
        )
    ours = tags.answer_is_ours(core.keyring(), row, answer)
    if not ours or name not in tags.approvers_of(row.approvers):
        return Refusal(f"its answer {NOT_OURS}", "answer not under our keys")
    if answer.at > now + MAX_CLOCK_SKEW:
        return Refusal(
            f"it was approved in the future, at {iso(answer.at)}, by the clock used here: "
            "the clock was set back",
            "approved in the future",
            ends=row,
        )
    if answer.at < now - within:
        return Refusal(
            f"{name!r} approved it at {iso(answer.at)}, longer ago than is allowed here",
            "approved too long ago",
        )
    person = people.get(name, NOBODY)
    if not person.active:
        return Refusal(f"{name!r} has since been deactivated", "approver inactive")
    if person.factor != answer.factor or not person.factor:
        return Refusal(
            f"the second factor with which {name!r} approved it has since been ended or replaced",
            "factor ended or replaced",
        )
    return None


def _denial_after(
    connection: Connection, answer: tags.AnswerRow, names: Set[str]
) -> Refusal | None:
    # Ordered by row, not by clock. The tags aren't verified: an attacker who can insert a denial
    # could delete the approval as well.
    by = connection.scalar(
        select(ApprovalAnswerRow.username)
        .where(
            ApprovalAnswerRow.digest == answer.digest,
            ApprovalAnswerRow.verdict == "denied",
            ApprovalAnswerRow.factor_kind != "",
            ApprovalAnswerRow.seq > answer.seq,
            ApprovalAnswerRow.username.in_(names),
        )
        .order_by(ApprovalAnswerRow.seq)
        .limit(1)
    )
    return None if by is None else Refusal(f"{by!r} denied it afterwards", "denied afterwards")
