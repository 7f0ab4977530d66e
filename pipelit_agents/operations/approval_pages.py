"""Pages of questions: the open ones of a person, and all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, Select, and_, tuple_

from pipelit_agents._core import Core
from pipelit_agents.approvals import tags
from pipelit_agents.approvals.moment import Moment
from pipelit_agents.approvals.questions import ours, stored_request
from pipelit_agents.approvals.rows import QUESTIONS, WITHOUT_SHOWN
from pipelit_agents.approvals.values import ApprovalRequest
from pipelit_agents.database.models import ApprovalPersonRow, ApprovalRow
from pipelit_agents.database.planted import all_rows
from pipelit_agents.errors import UnsealError
from pipelit_agents.operations.open_questions import may_be_open, waits_for
from pipelit_agents.paging import LAST_MOMENT, Page, read_moment, written_moment

__all__ = ["count_of_person", "page_of_all", "page_of_person"]

# How many questions a page reads at most, of which it leaves out those that wait for others.
_MOST_LOOKED_AT: Final = 1000
_SOONEST: Final = (ApprovalPersonRow.expires_at, ApprovalPersonRow.approval_id)


def page_of_person(core: Core, person: str, after: str | None, limit: int) -> Page[ApprovalRequest]:
    """Return a page of the open questions of a person; see ``Approvals.page``."""
    with core.database.reading() as connection:
        moment = Moment.of(core, connection)
        now = moment.now
        # What has expired meanwhile is skipped by the index.
        begin = (now, "") if after is None else max(read_moment(after), (now, ""))
        query = _open_of(QUESTIONS, person, now)
        return _page(
            moment,
            lambda last, most: _rows(
                connection, query.where(tuple_(*_SOONEST) > tuple_(*last)).limit(most)
            ),
            lambda row: (row.expires_at, row.id),
            lambda row: waits_for(moment, row, person),
            begin,
            limit,
        )


def count_of_person(core: Core, person: str, most: int) -> int:
    """Count the open questions of a person; see ``Approvals.count_pending``."""
    found = 0
    with core.database.reading() as connection:
        moment = Moment.of(core, connection)
        now = moment.now
        query = _open_of(WITHOUT_SHOWN, person, now).limit(_MOST_LOOKED_AT)
        for row in ours(moment, _rows(connection, query)):
            found += waits_for(moment, row, person)
            if found == most:
                break
    return found


def _open_of(
    questions: Select[*tuple[Any, ...]], person: str, now: float
) -> Select[*tuple[Any, ...]]:
    # A planted row with another time would let a page go on elsewhere.
    theirs = and_(_SOONEST[0] == ApprovalRow.expires_at, _SOONEST[1] == ApprovalRow.id)
    return (
        questions.join(ApprovalPersonRow, theirs)
        .where(
            ApprovalPersonRow.username == person,
            may_be_open(now),
            _SOONEST[0] > now,
            _SOONEST[0] < LAST_MOMENT,
        )
        .order_by(*_SOONEST)
    )


def page_of_all(core: Core, after: str | None, limit: int) -> Page[ApprovalRequest]:
    """Return a page of all questions, newest first; see ``ApprovalRegister.page``."""
    key = (ApprovalRow.created_at, ApprovalRow.id)
    query = QUESTIONS.order_by(*(each.desc() for each in key))
    with core.database.reading() as connection:
        moment = Moment.of(core, connection)
        return _page(
            moment,
            lambda last, most: _rows(
                connection, query.where(tuple_(*key) < tuple_(*last)).limit(most)
            ),
            lambda row: (row.created_at, row.id),
            lambda row: True,
            (LAST_MOMENT, "") if after is None else read_moment(after),
            limit,
        )


def _page(
    moment: Moment,
    read: Callable[[tuple[float, str], int], list[tags.QuestionRow]],
    key_of: Callable[[tags.QuestionRow], tuple[float, str]],
    is_wanted: Callable[[tags.QuestionRow], bool],
    last: tuple[float, str],
    limit: int,
) -> Page[ApprovalRequest]:
    found: list[ApprovalRequest] = []
    looked_at, cursor = 0, ""
    while len(found) < limit and looked_at < _MOST_LOOKED_AT:
        # One more than needed, to know whether others follow.
        most = limit - len(found) + 1
        some = read(last, most)
        for row in some:
            if len(found) == limit:
                return Page(found, cursor)
            looked_at += 1
            last = key_of(row)
            # What was planted may have any id: then the page goes on after the row before it.
            cursor = written_moment(*last) or cursor
            for each in ours(moment, [row]):
                if is_wanted(each):
                    with suppress(UnsealError):
                        found.append(stored_request(moment, each))
        if len(some) < most:
            return Page(found)
    return Page(found, cursor or None)


def _rows(connection: Connection, query: Select[*tuple[Any, ...]]) -> list[tags.QuestionRow]:
    return [tags.QuestionRow(*row) for row in all_rows(connection, query)]
