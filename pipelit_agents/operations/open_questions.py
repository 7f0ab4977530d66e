"""The questions that wait for an answer now, for the lists that people read.

Whether somebody may answer is decided again, in `approvals/answers.py`, when the answer is given.
"""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import ColumnElement, Connection, and_, or_

from pipelit_agents._core import Core
from pipelit_agents.approvals import counting, rows, tags
from pipelit_agents.approvals.questions import ours, stored_request
from pipelit_agents.approvals.refusals import refused_by_time
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.database.models import ApprovalRow
from pipelit_agents.errors import UnsealError

__all__ = ["may_be_open", "pending", "waits_for"]


def pending(core: Core, person: str | None) -> list[ApprovalRequest]:
    """Return the open questions; see ``ServedApprovals.pending``."""
    found = []
    with core.database.reading() as connection:
        now = core.shared_now(connection)
        where = [may_be_open(now)]
        if person is not None:
            where.append(ApprovalRow.approvers.contains(f'"{person}"', autoescape=True))
        for row in ours(core, connection, rows.read_questions(connection, *where)):
            if waits_for(core, connection, row, person, now):
                with suppress(UnsealError):
                    found.append(stored_request(core, connection, row))
    return found


def may_be_open(now: float) -> ColumnElement[bool]:
    """Return the condition for the rows of questions that can wait for an answer."""
    # What was approved can be open again: see `counting.state_of`.
    again = and_(ApprovalRow.state == "approved", ApprovalRow.rule != "")
    return and_(or_(ApprovalRow.state == "pending", again), ApprovalRow.expires_at > now)


def waits_for(
    core: Core, connection: Connection, row: tags.QuestionRow, person: str | None, now: float
) -> bool:
    """Return whether a question, whose tag was verified, waits for a person, or for anybody."""
    if refused_by_time(row, now) is not None:
        return False
    if row.rule and counting.state_of(core, connection, row, now) != "pending":
        return False
    if person is None:
        return True
    if person not in tags.step_at(tags.steps_of(row), now).people:
        return False
    given, _ = counting.valid_answers(core, connection, row, {person}, now)
    return not given
