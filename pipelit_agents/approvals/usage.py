"""Use up an approval: find one that is valid now, and mark it in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, and_

from pipelit_agents._core import Core
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.moment import Moment
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

_USE: Final = "approval.use"
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
        rows.lock_question(core, connection, wanted, approvers)
        moment = Moment.of(core, connection)
        for row in _candidates(connection, wanted):
            steps = [
                step._replace(
                    people=tuple(each for each in step.people if each in approvers),
                    at_least=max(step.at_least, at_least),
                )
                for step in tags.steps_of(row)
            ]
            found = _enough(moment, row, counting.Demand(steps, within, frozenset(approvers)))
            found = _use_up(moment, row, found)
            if not isinstance(found, Refusal):
                return rows.decision_of(row, found[-1])
            refusal = found
        moment.record(OPERATOR, wanted, _USE, refusal.reason, outcome="refused")
    raise NotPermitted(f"this may not be done: {refusal.message}; {_AGAIN}")


def start(core: Core, identifier: str, rule: Approvers) -> tuple[ApprovalDecision, ...]:
    """Use up the approval of a tool call; see ``CallApprovals.start``.

    Args:
        core: The database, the keys and the clocks.
        identifier: The id of its question.
        rule: The rule of the code that runs.
    """
    with core.database.writing(durable=True) as connection:
        people = [each for step in rule.chain() for each in step.people]
        rows.lock_question(core, connection, identifier, people)
        moment = Moment.of(core, connection)
        row = rows.find_question(moment, identifier)
        if isinstance(row, Refusal):
            refusal = row
        else:
            found = _enough(moment, row, counting.Demand(_narrowed(row, rule)))
            until = row.created_at + sum(each.seconds for each in rule.chain())
            if until <= moment.now and not isinstance(found, Refusal):
                found = Refusal(f"the rule allows it only until {iso(until)}", "too late by rule")
            left_out = any(each.not_requester for each in rule.chain())
            if left_out and not is_person(connection, row.asked_by):
                found = Refusal(NOBODY_KNOWN, "no requester")
            found = _use_up(moment, row, found)
            if not isinstance(found, Refusal):
                return tuple(rows.decision_of(row, each) for each in found)
            refusal = found
        moment.record(OPERATOR, identifier, _USE, refusal.reason, outcome="refused")
    raise NotPermitted(f"this may not be done: {refusal.message}")


def _use_up(
    moment: Moment, row: tags.QuestionRow, found: list[tags.AnswerRow] | Refusal
) -> list[tags.AnswerRow] | Refusal:
    """Mark an approval that is valid as used; end a question that can't be valid again."""
    if isinstance(found, Refusal):
        if found.ends is not None:
            rows.set_state(moment, found.ends, "expired")
        return found
    if not rows.mark_used(moment, row):
        return Refusal("it was used before", "used")
    moment.record(OPERATOR, row.id, _USE, row.digest)
    return found


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
    moment: Moment, row: tags.QuestionRow, demand: counting.Demand
) -> list[tags.AnswerRow] | Refusal:
    """Return the answers that make an approval valid."""
    if not tags.question_is_ours(moment.keyring, row):
        return Refusal(f"its record {NOT_OURS}", FOREIGN)
    state = counting.state_of(moment, row)
    if state == "pending" and not (row.rule and rows.read_answers(moment.connection, row.id)):
        return refused_by_time(row, moment.now) or Refusal("nobody has answered yet", "pending")
    if state in ("pending", "approved") or (state == "suspended" and row.call):
        refusal = refused_by_time(row, moment.now)
    else:
        refusal = refused_as_closed(row._replace(state=state))
    if refusal is not None:
        return refusal
    asked = tags.approvers_of(row.approvers)
    for name in tags.approvers_of(row.denied_by):
        if name in asked or name in demand.others:
            return Refusal(f"{name!r} denied it afterwards", "denied afterwards")
    return counting.count(moment, row, demand)
