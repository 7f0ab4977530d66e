"""List the lanes in which the failed codes about accounts are counted, and unlock them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import ColumnElement, select, text, tuple_

from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import recordable
from pipelit_agents.accounts.lookup import find_account
from pipelit_agents.accounts.models import LaneInfo, LockedLane, lane_info
from pipelit_agents.accounts.service import AccountService
from pipelit_agents.database.conditions import LOCKED_LANES
from pipelit_agents.database.models import LedgerRow, UserRow
from pipelit_agents.ledger.attempts import is_person
from pipelit_agents.ledger.lanes import read_lane_name
from pipelit_agents.ledger.unlocking import unlock
from pipelit_agents.paging import DEFAULT_LIMIT, Page, not_a_cursor, require_limit
from pipelit_agents.protocol.usernames import OPERATOR, require_username

__all__ = ["AccountLanes"]

# How many lanes a page looks at. Most have counted nothing since the last right code.
MOST_LANES: Final = 1000


def _has_counted(lane: LaneInfo) -> bool:
    return bool(lane.failures or lane.clock_trouble or lane.allowance_used)


def _lane_of(cursor: str) -> ColumnElement[tuple[str, str]]:
    try:
        return tuple_(*read_lane_name(cursor))
    except ValueError:
        raise not_a_cursor(cursor) from None


class AccountLanes(AccountService):
    """Lists the lanes of accounts, and unlocks them; a base class of ``Users``."""

    def lanes(self, username: str) -> Sequence[LaneInfo]:
        """List the lanes about an account that have counted anything.

        Failures in one lane don't affect another. With a ledger in Redis this lists the database's
        copy, which has everything except for the failures of the last minute.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
        """
        name = require_username(username)
        with self._database.reading() as connection:
            account = find_account(connection, name)
            rows = connection.execute(
                select(LedgerRow.__table__).where(LedgerRow.peer == name)
            ).all()
            now = self._core.shared_now(connection)
        person = is_person(account)
        found = [lane_info(row, self._rules, now, person=person) for row in rows]
        return sorted(filter(_has_counted, found), key=lambda each: each.lane)

    alanes: Final = off_the_loop(lanes)

    def page_lanes(
        self, username: str, *, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[LaneInfo]:
        """Return one page of what ``lanes`` returns, in a fixed order.

        A page looks at a bounded number of lanes, so it may have few items, or none, although
        others follow.

        Args:
            username: The account.
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of lanes, 1 to 1,000.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.

        Example:
            ```python
            page = pipelit.users.page_lanes("alice")
            while page.next is not None:
                page = pipelit.users.page_lanes("alice", after=page.next)
            ```
        """
        require_limit(limit)
        name = require_username(username)
        query = select(LedgerRow.__table__).where(LedgerRow.peer == name)
        if after is not None:
            query = query.where(tuple_(LedgerRow.scope, LedgerRow.subject) > _lane_of(after))
        query = query.order_by(LedgerRow.scope, LedgerRow.subject).limit(MOST_LANES + 1)
        with self._database.reading() as connection:
            person = is_person(find_account(connection, name))
            rows = connection.execute(query).all()
            now = self._core.shared_now(connection)
        found: list[LaneInfo] = []
        for number, row in enumerate(rows[:MOST_LANES], 1):
            lane = lane_info(row, self._rules, now, person=person)
            found += [lane] if _has_counted(lane) else []
            if number < len(rows) and (len(found) == limit or number == MOST_LANES):
                return Page(found, lane.lane)
        return Page(found)

    apage_lanes: Final = off_the_loop(page_lanes)

    def locked_lanes(self, *, limit: int = 100) -> Sequence[LockedLane]:
        """List the locked lanes about all active accounts, those that unlock last first.

        Args:
            limit: The maximum number of lanes, 1 to 1,000.

        Raises:
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range.
        """
        require_limit(limit)
        with self._database.reading() as connection:
            now = self._core.shared_now(connection)
            query = (
                select(LedgerRow.__table__, UserRow.kind, UserRow.domain)
                .join(UserRow, UserRow.username == LedgerRow.peer)
                .where(text(LOCKED_LANES), UserRow.active, LedgerRow.locked_until > now)
                .order_by(LedgerRow.locked_until.desc(), LedgerRow.peer)
                .limit(limit)
            )
            rows = connection.execute(query).all()
        found = [
            LockedLane(row.peer, lane_info(row, self._rules, now, person=is_person(row)))
            for row in rows
        ]
        return [each for each in found if each.lane.locked_until]

    alocked_lanes: Final = off_the_loop(locked_lanes)

    def unlock(
        self, username: str, *, lane: str | None = None, by: str = OPERATOR
    ) -> Sequence[LaneInfo]:
        """End locks about an account, so that its short codes are evaluated again.

        Unlocking doesn't change a lane that has used up its wrong guesses of the year. It evaluates
        one code after each lock, of 30 days at most, and accepts a right one. Meanwhile a person
        can use a recovery code, which has no lane. An agent can use audience codes at other
        verifiers, proofs and spawns.

        Spent codes stay spent. This also repairs what was stored while the clock was ahead: a spent
        time step that the clock hasn't reached is set to the last one that could have been spent by
        now. So codes are accepted again after three periods (90 seconds). The steps that were spent
        while the clock was ahead are still refused when the clock reaches them.

        Args:
            username: The account.
            lane: The only lane to unlock, as named by ``lanes``; by default all lanes.
            by: The requester's name, for the audit.

        Returns:
            The lanes that are still locked, each with the end of its lock.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            ValueError: There is no such lane.
        """
        only = None if lane is None else read_lane_name(lane)
        with self._database.writing(durable=True) as connection:
            name = find_account(connection, require_username(username)).username
            unlock(
                self._database,
                connection,
                name,
                at=self._clock(),
                rules=self._rules,
                clock=self._core.shared_clock,
                lane=only,
            )
            self._core.record(connection, by, name, "user.unlock", recordable(lane or ""))
        return [
            each for each in self.lanes(name) if each.locked_until and lane in (None, each.lane)
        ]

    aunlock: Final = off_the_loop(unlock)
