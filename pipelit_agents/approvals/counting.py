"""Count the answers to a question that are valid now, and the approvals that its steps need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from pipelit_agents.approvals import rows, tags
from pipelit_agents.approvals.approvers import NOBODY, Approver, read_approvers
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.refusals import MAX_CLOCK_SKEW, NOT_OURS, Refusal, iso
from pipelit_agents.approvals.values import State
from pipelit_agents.database.models import ApprovalAnswerRow
from pipelit_agents.database.planted import all_rows

__all__ = ["Demand", "count", "state_of", "valid_answers"]


class Demand(NamedTuple):
    """What an approval needs to be valid, as the code that acts demands.

    Attributes:
        steps: The steps whose people count.
        within: The maximum age of an answer, in seconds.
        others: More people whose later denial counts.
    """

    steps: Sequence[tags.Step]
    within: float = math.inf
    others: Set[str] = frozenset()


def state_of(moment: Moment, row: tags.QuestionRow) -> State:
    """Return the state of a question, as its answers make it; not its expiry.

    The stored state ends a question. Under a rule, it is counted whether a question is approved:
    an approval ends with the account or the second factor of the person, and then others can
    approve in that person's place.
    """
    if not row.rule or row.state in ("denied", "used", "expired"):
        return row.state
    if rows.was_used(moment.connection, row):
        return "used"
    if _denials(moment.connection, row):
        return "denied"
    if row.state == "suspended":
        return "suspended"
    found = count(moment, row, Demand(tags.steps_of(row)))
    return "pending" if isinstance(found, Refusal) else "approved"


def count(moment: Moment, row: tags.QuestionRow, demand: Demand) -> list[tags.AnswerRow] | Refusal:
    """Return the answers that make an approval valid: those that one of the steps needs.

    Args:
        moment: The transaction; a step that begins later doesn't count.
        row: The question; its tag was verified.
        demand: What is demanded of the approval.
    """
    begun = [step for step in demand.steps if step.begins <= moment.now]
    names = {name for step in begun for name in step.people}
    valid, refusal = valid_answers(moment, row, names, demand)
    for step in begun:
        # An answer after the end of a step can't complete it: then the rule of the next one counts.
        answers = [
            each for name, each in valid.items() if name in step.people and each.at < step.until
        ]
        if len(answers) >= step.at_least:
            return answers[: step.at_least]
    present = tags.step_at(begun or demand.steps, moment.now)
    if present.at_least == 1:
        return refusal or Refusal(
            "none of the required approvers has approved it", "other approvers"
        )
    given = len(valid.keys() & {*present.people})
    words = f"{given} of the {present.at_least} approvals that it needs are valid"
    because = f" ({refusal.message})" if refusal else ""
    return Refusal(words + because, "too few approvals", refusal.ends if refusal else None)


def valid_answers(
    moment: Moment, row: tags.QuestionRow, names: Set[str], demand: Demand
) -> tuple[Mapping[str, tags.AnswerRow], Refusal | None]:
    """Return the approvals of these people that are valid, and why another one isn't."""
    connection = moment.connection
    people = read_approvers(moment.core, connection, names)
    asked = {*tags.approvers_of(row.approvers), *names, *demand.others}
    valid: dict[str, tags.AnswerRow] = {}
    refusal = None
    for answer in rows.read_answers(connection, row.id):
        if answer.verdict != "approved" or answer.username not in names:
            continue
        person = people.get(answer.username, NOBODY)
        invalid = _why_invalid(moment, row, answer, person, demand.within)
        invalid = invalid or _denial_after(connection, row, answer, asked)
        if invalid is None:
            valid.setdefault(answer.username, answer)
        else:
            refusal = invalid
    return valid, refusal


def _why_invalid(
    moment: Moment, row: tags.QuestionRow, answer: tags.AnswerRow, person: Approver, within: float
) -> Refusal | None:
    name = answer.username
    if answer.mac == "":
        return Refusal(
            f"{name!r} has since been deactivated, or has ended the second factor", "voided"
        )
    ours = tags.answer_is_ours(moment.keyring, row, answer)
    if not ours or name not in tags.approvers_of(row.approvers):
        return Refusal(f"its answer {NOT_OURS}", "answer not under our keys")
    if answer.at > moment.now + MAX_CLOCK_SKEW:
        return Refusal(
            f"it was approved in the future, at {iso(answer.at)}, by the clock used here: "
            "the clock was set back",
            "approved in the future",
            ends=row,
        )
    if answer.at < moment.now - within:
        return Refusal(
            f"{name!r} approved it at {iso(answer.at)}, longer ago than is allowed here",
            "approved too long ago",
        )
    if not person.active:
        return Refusal(f"{name!r} has since been deactivated", "approver inactive")
    if person.factor != answer.factor or not person.factor:
        return Refusal(
            f"the second factor with which {name!r} approved it has since been ended or replaced",
            "factor ended or replaced",
        )
    return None


def _denials(connection: Connection, row: tags.QuestionRow) -> str | None:
    return _first_denial(connection, ApprovalAnswerRow.approval_id == row.id)


def _denial_after(
    connection: Connection, row: tags.QuestionRow, answer: tags.AnswerRow, names: Set[str]
) -> Refusal | None:
    if row.call:
        # Each call is a question of its own: a denial of one isn't a denial of its twin.
        by = _denials(connection, row)
        return None if by is None else Refusal(f"{by!r} denied it", "denied")
    # Ordered by row, not by clock.
    by = _first_denial(
        connection,
        ApprovalAnswerRow.digest == answer.digest,
        ApprovalAnswerRow.seq > answer.seq,
        ApprovalAnswerRow.username.in_(names),
    )
    return None if by is None else Refusal(f"{by!r} denied it afterwards", "denied afterwards")


def _first_denial(connection: Connection, *where: ColumnElement[bool]) -> str | None:
    # The tags aren't verified: an attacker who can insert a denial could delete the approval too.
    denied = (ApprovalAnswerRow.verdict == "denied", ApprovalAnswerRow.factor_kind != "", *where)
    query = select(ApprovalAnswerRow.username).where(*denied).order_by(ApprovalAnswerRow.seq)
    found = all_rows(connection, query.limit(1))
    return found[0][0] if found else None
