"""Read accounts: one, all, or a page of them; and list the API keys that expire soon."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Literal

from sqlalchemy import and_, select, text, tuple_

from pipelit_agents._bounds import require_duration
from pipelit_agents._twins import off_the_loop
from pipelit_agents._words import quoted
from pipelit_agents.accounts.lookup import find_account, read_account
from pipelit_agents.accounts.models import ApiKeyInfo, User, key_info, user_of
from pipelit_agents.accounts.service import AccountService
from pipelit_agents.database.conditions import KINDS_OF_ACCOUNTS
from pipelit_agents.database.models import ApiKeyRow, UserRow
from pipelit_agents.paging import (
    DEFAULT_LIMIT,
    Page,
    read_moment,
    require_limit,
    written_moment,
)
from pipelit_agents.protocol.usernames import require_username

__all__ = ["AccountLists"]

_ALL: Final = select(UserRow.__table__)
_KINDS: Final = {"human": "people", "agent": "agents", "peer": "peers"}


class AccountLists(AccountService):
    """Reads accounts, and changes nothing; a base class of ``Users``."""

    def get(self, username: str) -> User:
        """Return the account of that name.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
        """
        with self._database.reading() as connection:
            return user_of(find_account(connection, require_username(username)))

    aget: Final = off_the_loop(get)

    def list(self, *, owner: str | None = None) -> Sequence[User]:
        """Return all accounts sorted by name, or only those of one root owner.

        Raises:
            InvalidUsername: The owner isn't a username.
        """
        query = select(UserRow.__table__).order_by(UserRow.username)
        if owner is not None:
            require_username(owner, argument="owner")
            query = query.where(UserRow.root_owner == owner)
        with self._database.reading() as connection:
            return [user_of(row) for row in connection.execute(query)]

    alist: Final = off_the_loop(list)  # noqa: A003 - the method is meant

    def page(
        self,
        *,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
        kind: Literal["human", "agent", "peer"] | None = None,
        owner: str | None = None,
        root_owner: str | None = None,
    ) -> Page[User]:
        """Return one page of the accounts, sorted by name.

        Args:
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of accounts, 1 to 1,000.
            kind: Only people, only agents or only peers.
            owner: Only agents that this account owns directly.
            root_owner: Only this person and the agents that it owns, directly or not.

        Raises:
            InvalidUsername: ``after`` or an owner isn't a username.
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range, or ``kind`` is another word.
        """
        require_limit(limit)
        if kind not in (None, "human", "agent", "peer"):
            raise ValueError(f"kind must be 'human', 'agent' or 'peer', not {quoted(kind)}")
        query = _ALL.order_by(UserRow.username).limit(limit + 1)
        if after is not None:
            query = query.where(UserRow.username > require_username(after, argument="after"))
        if owner is not None:
            query = query.where(UserRow.owner == require_username(owner, argument="owner"))
        if root_owner is not None:
            require_username(root_owner, argument="root_owner")
        # Each query has an index that it ends with, whatever the filters.
        if owner is not None and kind not in (None, "agent"):
            return Page([])
        if owner is None and root_owner is not None and kind is not None:
            # The others of a family are agents.
            itself = UserRow.username == root_owner
            query = query.where(~itself if kind == "agent" else itself)
        if kind not in (None, "agent") or (kind is not None and owner is root_owner is None):
            query = query.where(text(KINDS_OF_ACCOUNTS[_KINDS[kind]]))
        with self._database.reading() as connection:
            if owner is not None and root_owner is not None:
                belongs_to = read_account(connection, owner)
                if belongs_to is None or belongs_to.root_owner != root_owner:
                    return Page([])
            elif root_owner is not None:
                query = query.where(UserRow.root_owner == root_owner)
            rows = connection.execute(query).all()
        some = [user_of(row) for row in rows[:limit]]
        return Page(some, some[-1].username if len(rows) > limit else None)

    apage: Final = off_the_loop(page)

    def page_api_keys(
        self, username: str, *, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ApiKeyInfo]:
        """Return one page of an account's API keys without the keys themselves, oldest first.

        Args:
            username: The account.
            after: The ``next`` of the page before; by default the first page.
            limit: The maximum number of keys, 1 to 1,000.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range, or ``after`` isn't the ``next`` of a page.
        """
        require_limit(limit)
        query = (
            select(ApiKeyRow.__table__)
            .where(ApiKeyRow.username == require_username(username))
            .order_by(ApiKeyRow.created_at, ApiKeyRow.id)
            .limit(limit + 1)
        )
        if after is not None:
            last = tuple_(*read_moment(after))
            query = query.where(tuple_(ApiKeyRow.created_at, ApiKeyRow.id) > last)
        with self._database.reading() as connection:
            find_account(connection, username)
            rows = connection.execute(query).all()
        end = rows[limit - 1] if len(rows) > limit else None
        following = None if end is None else written_moment(end.created_at, end.id)
        return Page([key_info(row) for row in rows[:limit]], following)

    apage_api_keys: Final = off_the_loop(page_api_keys)

    def expiring_keys(
        self, within: timedelta, *, username: str | None = None, limit: int = 100
    ) -> Sequence[ApiKeyInfo]:
        """Return the API keys that are accepted now and expire soon, the soonest first.

        Args:
            within: How soon.
            username: Only keys of this account; by default of all.
            limit: The maximum number of keys, 1 to 1,000.

        Raises:
            InvalidUsername: The username is malformed.
            TypeError: ``within`` isn't a ``timedelta``, or ``limit`` isn't a whole number.
            ValueError: ``within`` or ``limit`` is out of range.
        """
        require_limit(limit)
        now = self._clock()
        until = now + require_duration(within, "within").total_seconds()
        query = (
            select(ApiKeyRow.__table__)
            .join(UserRow, UserRow.username == ApiKeyRow.username)
            .where(
                UserRow.active,
                ApiKeyRow.revoked_at.is_(None),
                ApiKeyRow.expires_at > now,
                ApiKeyRow.expires_at <= until,
            )
            .order_by(ApiKeyRow.expires_at, ApiKeyRow.id)
            .limit(limit)
        )
        if username is not None:
            query = query.where(ApiKeyRow.username == require_username(username))
        with self._database.reading() as connection:
            return [key_info(row) for row in connection.execute(query)]

    aexpiring_keys: Final = off_the_loop(expiring_keys)

    def operators_without_second_factor(self, *, limit: int = 100) -> Sequence[str]:
        """List the active operators without a second factor, by name.

        Whoever has the API key of one can change every account.

        Args:
            limit: The maximum number of names, 1 to 1,000.

        Raises:
            TypeError: ``limit`` isn't a whole number.
            ValueError: ``limit`` is out of range.

        Example:
            ```python
            for name in pipelit.users.operators_without_second_factor():
                print(f"{name} has no second factor")
            ```
        """
        require_limit(limit)
        operators = text(KINDS_OF_ACCOUNTS["operators"])
        of_here = and_(UserRow.kind == "human", UserRow.domain == "", UserRow.active)
        query = select(UserRow.username).where(operators, of_here, UserRow.totp_secret.is_(None))
        with self._database.reading() as connection:
            return list(connection.scalars(query.order_by(UserRow.username).limit(limit)))

    aoperators_without_second_factor: Final = off_the_loop(operators_without_second_factor)
