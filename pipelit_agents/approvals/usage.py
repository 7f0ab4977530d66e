"""Use up an approval: find one that is valid now, and mark it in the same transaction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, and_

from pipelit_agents._core import Core
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.refusals import (
    FOREIGN,
    NOT_OURS,
    Refusal,
    iso,
    refused_as_closed,
    refused_by_time,
)
from pipelit_agents.approvals.rules import NOBODY_KNOWN, Approvers, is_person
from pipelit_agents.approvals.values import ApprovalDecision
from pipelit_agents.database.models import ApprovalRow
from pipelit_agents.errors import NotPermitted
from pipelit_agents.protocol.usernames import OPERATOR

__all__ = ["start", "use"]

_USED_BEFORE: Final = Refusal("it was used before", "used")
_AGAIN: Final = "ask again, and do exactly what was displayed"


def use(
    core: Core, wanted: str, approvers: Sequence[str], within: float, at_least: int = 1
) -> ApprovalDecision:
    """Use up an approval; see ``Approvals.require``.

    Args:
        core: The database, the keys and the clocks.
        wanted: The digest of the action, or the id of a question.
        approvers: The people whose approval is accepted.
        within: The maximum age of the approval, in seconds.
        at_least: How many of them must have approved.
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
            steps = [
                step._replace(
                    people=tuple(each for each in step.people if each in approvers),
                    at_least=max(step.at_least, at_least),
                )
                for step in tags.steps_of(row)
            ]
            found = _enough(core, connection, row, steps, now, within=within, others=approvers)
            if isinstance(found, Refusal):
                refusal = found
                if refusal.ends is not None:
                    rows.set_state(core, connection, refusal.ends, "expired")
            elif rows.mark_used(core, connection, row, now):
                core.record(connection, OPERATOR, row.id, "approval.use", row.digest, at=now)
                return rows.decision_of(row, found[-1])
            else:
                refusal = _USED_BEFORE
        core.record(
            connection, OPERATOR, wanted, "approval.use", refusal.reason, outcome="refused", at=now
        )
    raise NotPermitted(f"this may not be done: {refusal.message}; {_AGAIN}")


def start(core: Core, identifier: str, rule: Approvers) -> tuple[ApprovalDecision, ...]:
    """Use up the approval of a tool call; see ``CallApprovals.start``.

    Args:
        core: The database, the keys and the clocks.
        identifier: The id of its question.
        rule: The rule of the code that runs.
    """
    with core.database.writing(durable=True) as connection:
        named = rows.read_question(connection, identifier)
        accounts = [f"account:{each}" for step in rule.chain() for each in step.people]
        core.database.lock(connection, *accounts, shared=True)
        core.database.lock(connection, f"approval:{named.digest if named else ''}")
        now = core.shared_now(connection)
        row = rows.find_question(core, connection, identifier)
        found: Refusal | Sequence[tags.AnswerRow]
        if isinstance(row, Refusal):
            found = row
        else:
            found = _enough(core, connection, row, _narrowed(row, rule), now)
            until = row.created_at + sum(each.seconds for each in rule.chain())
            if until <= now and not isinstance(found, Refusal):
                found = Refusal(f"the rule allows it only until {iso(until)}", "too late by rule")
            left_out = any(each.not_requester for each in rule.chain())
            if left_out and not is_person(connection, row.asked_by):
                found = Refusal(NOBODY_KNOWN, "no requester")
            if not isinstance(found, Refusal):
                if rows.mark_used(core, connection, row, now):
                    core.record(connection, OPERATOR, row.id, "approval.use", row.digest, at=now)
                    return tuple(rows.decision_of(row, each) for each in found)
                found = _USED_BEFORE
            if found.ends is not None:
                rows.set_state(core, connection, found.ends, "expired")
        core.record(
            connection,
            OPERATOR,
            identifier,
            "approval.use",
            found.reason,
            outcome="refused",
            at=now,
        )
    raise NotPermitted(f"this may not be done: {found.message}")


def _narrowed(row: tags.QuestionRow, rule: Approvers) -> list[tags.Step]:
    """Return the steps of a question, as far as a rule allows them too."""
    steps, left_out, begins = [], False, row.created_at
    for step, allowed in zip(tags.steps_of(row), rule.chain(), strict=False):
        left_out = left_out or allowed.not_requester
        until = begins + allowed.seconds
        names = {*allowed.people} - ({row.asked_by} if left_out else set())
        people = tuple(each for each in step.people if each in names)
        least = max(step.at_least, allowed.at_least)
        steps.append(
            tags.Step(people, least, max(step.begins, begins), min(step.until, until)),
        )
        begins = until
    return steps


def _candidates(connection: Connection, wanted: str) -> Sequence[tags.QuestionRow]:
    which = ApprovalRow.id == wanted if tags.is_id(wanted) else ApprovalRow.digest == wanted
    # The approval of a tool call is used by that call alone.
    which = and_(which, ApprovalRow.call == "")
    approved = rows.read_questions(connection, which, ApprovalRow.state == "approved")
    # If nothing is approved, the newest question gives the reason.
    return approved or rows.read_questions(connection, which, newest=True)


def _enough(
    core: Core,
    connection: Connection,
    row: tags.QuestionRow,
    steps: Sequence[tags.Step],
    now: float,
    *,
    within: float = math.inf,
    others: Sequence[str] = (),
) -> list[tags.AnswerRow] | Refusal:
    """Return the answers that make an approval valid."""
    if not tags.question_is_ours(core.keyring(), row):
        return Refusal(f"its record {NOT_OURS}", FOREIGN)
    state = counting.state_of(core, connection, row, now) if row.rule else row.state
    if state == "pending" and not (row.rule and rows.read_answers(connection, row.id)):
        return refused_by_time(row, now) or Refusal("nobody has answered yet", "pending")
    open_ = state in ("pending", "approved") or (state == "suspended" and row.call)
    refusal = refused_by_time(row, now) if open_ else refused_as_closed(row._replace(state=state))
    if refusal is not None:
        return refusal
    asked = tags.approvers_of(row.approvers)
    for name in tags.approvers_of(row.denied_by):
        if name in asked or name in others:
            return Refusal(f"{name!r} denied it afterwards", "denied afterwards")
    return counting.count(
        core, connection, row, steps, now, within=within, others=frozenset(others)
    )
