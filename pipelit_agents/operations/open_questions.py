"""The questions that wait for an answer now, for the lists that people read.

Whether somebody may answer is decided again, in `approvals/answers.py`, when the answer is given.
"""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import ColumnElement, and_, or_

from pipelit_agents._core import Core
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.questions import ours, stored_request
from pipelit_agents.approvals.refusals import refused_by_time
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.database.models import ApprovalRow
from pipelit_agents.errors import UnsealError

__all__ = ["may_be_open", "pending", "waits_for"]


def pending(core: Core, person: str | None) -> list[ApprovalRequest]:
    """Return the open questions; see ``Approvals.pending``."""
    found = []
    with core.database.reading() as connection:
        moment = Moment.of(core, connection)
        where = [may_be_open(moment.now)]
        if person is not None:
            where.append(ApprovalRow.approvers.contains(f'"{person}"', autoescape=True))
        for row in ours(moment, rows.read_questions(connection, *where)):
            if waits_for(moment, row, person):
                with suppress(UnsealError):
                    found.append(stored_request(moment, row))
    return found


def may_be_open(now: float) -> ColumnElement[bool]:
    """Return the condition for the rows of questions that can wait for an answer."""
    # What was approved can be open again: see `counting.state_of`.
    again = and_(ApprovalRow.state == "approved", ApprovalRow.rule != "")
    return and_(or_(ApprovalRow.state == "pending", again), ApprovalRow.expires_at > now)


def waits_for(moment: Moment, row: tags.QuestionRow, person: str | None) -> bool:
    """Return whether a question, whose tag was verified, waits for a person, or for anybody."""
    if refused_by_time(row, moment.now) is not None:
        return False
    if row.rule and counting.state_of(moment, row) != "pending":
        return False
    if person is None:
        return True
    steps = tags.steps_of(row)
    if person not in tags.step_at(steps, moment.now).people:
        return False
    given, _ = counting.valid_answers(moment, row, {person}, counting.Demand(steps))
    return not given
