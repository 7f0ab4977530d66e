"""Accounts: people, agent users and peers, their API keys, and what an operator does with them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import SecretStr
from sqlalchemy import Connection, Row, func, select, update

from pipelit_agents._bounds import require_duration
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.api_keys import (
    ApiKeys,
)
from pipelit_agents.accounts.lookup import find_account, find_agent
from pipelit_agents.accounts.models import (
    LaneInfo,
    NewAgent,
    NewUser,
    User,
    lane_info,
    user_of,
)
from pipelit_agents.accounts.peers import Peers
from pipelit_agents.accounts.service import SECRET_BYTES
from pipelit_agents.approvals.register import void_unused
from pipelit_agents.database.models import LedgerRow, UserRow
from pipelit_agents.errors import (
    NotPermitted,
    QuotaExceeded,
    UserInactive,
)
from pipelit_agents.ledger.attempts import is_person
from pipelit_agents.ledger.common import ledger_now
from pipelit_agents.ledger.lanes import read_lane_name
from pipelit_agents.ledger.unlocking import unlock
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.purposes import totp_purpose

__all__ = ["Users"]
# One in so many of an owner's places is for agents that people make.
_KEPT_FOR_PEOPLE: Final = 4


class Users(ApiKeys, Peers):
    """The accounts of one database; ``pipelit.users``.

    Args:
        core: The database, the keys that encrypt TOTP secrets, the quota and the limits.

    Attributes:
        refusals: Refused API keys that aren't in the audit yet.
    """

    def create(
        self,
        username: str,
        *,
        key_expires_at: datetime | None = None,
        created_by: str = OPERATOR,
    ) -> NewUser:
        """Makes the account of a person, with one API key.

        Args:
            username: 1 to 149 of ``a-z 0-9 _ . -``, the first a letter or digit.
            key_expires_at: From when the API key isn't accepted; with a time zone.
            created_by: Who asked for it, for the record.

        Raises:
            InvalidUsername: The name has another form.
            UserExists: The name is taken.
        """
        name = require_username(username)
        with self._database.writing(durable=True) as connection:
            self._insert(connection, name, kind="human", root_owner=name, created_by=created_by)
            expires = self._expiry("key_expires_at", key_expires_at)
            key = self._insert_key(connection, name, "first key", expires, created_by)
        return NewUser(name, key.api_key)

    acreate = off_the_loop(create)

    def create_agent(
        self,
        username: str,
        *,
        owner: str,
        purpose: str,
        may_create_agents: bool | None = None,
        key_expires_at: datetime | None = None,
    ) -> NewAgent:
        """Makes an agent user: no password ever, a TOTP secret and an API key of its own.

        Args:
            username: As for a person.
            owner: Whom it belongs to: an active person, or an active agent that may make agents.
            purpose: What it is for, in a few words.
            may_create_agents: Whether it may make agents itself. By default an agent of a person
                may, and an agent made by an agent may not.
            key_expires_at: From when its API key isn't accepted; with a time zone.

        Raises:
            InvalidUsername: The name has another form.
            UserExists: The name is taken.
            UserNotFound: There is no such owner.
            UserInactive: The owner was deactivated.
            NotPermitted: The owner is an agent that may not make agents, or a peer.
            QuotaExceeded: The root owner, or an agent that is to own it, has as many living agents
                as the policy allows.
            ConfigurationError: There is no key to seal its TOTP secret under.
        """
        name = require_username(username)
        with self._database.writing(durable=True) as connection:
            return self.create_agent_in(
                connection,
                name,
                owner=owner,
                purpose=purpose,
                may_create_agents=may_create_agents,
                key_expires_at=key_expires_at,
            )

    acreate_agent = off_the_loop(create_agent)

    def create_agent_in(
        self,
        connection: Connection,
        username: str,
        *,
        owner: str,
        purpose: str,
        may_create_agents: bool | None = None,
        key_expires_at: datetime | None = None,
    ) -> NewAgent:
        """As :meth:`create_agent`, in a transaction of the caller's on the same database."""
        belongs_to = self.find_in(connection, require_username(owner, argument="owner"))
        if not belongs_to.active:
            raise UserInactive(f"owner {owner!r} was deactivated", username=owner)
        if belongs_to.domain:
            raise NotPermitted(
                f"{owner!r} is a peer of the domain {belongs_to.domain!r}: it owns no agents here",
                username=owner,
            )
        if belongs_to.kind == "agent" and not belongs_to.may_create_agents:
            raise NotPermitted(
                f"agent {owner!r} may not create agents; an operator may create it with "
                "may_create_agents=True",
                username=owner,
            )
        if may_create_agents is None:
            may_create_agents = belongs_to.kind == "human"
        root = belongs_to.root_owner
        self._require_place(connection, belongs_to)
        secret = secrets.token_bytes(SECRET_BYTES)
        self._insert(
            connection,
            username,
            kind="agent",
            owner=owner,
            root_owner=root,
            purpose=purpose,
            may_create_agents=may_create_agents,
            totp_secret=self._seal(connection, secret, totp_purpose(username)),
            created_by=owner,
        )
        expires = self._expiry("key_expires_at", key_expires_at)
        key = self._insert_key(connection, username, "first key", expires, owner)
        return NewAgent(username, key.api_key, provisioning_uri(username, secret))

    def _require_place(self, connection: Connection, owner: Row[Any]) -> None:
        """Make sure that the quotas have a place for one more agent of this owner."""
        root, limit = owner.root_owner, self._policy.agents_per_owner
        family = (UserRow.root_owner == root, UserRow.kind == "agent", UserRow.active)
        living = connection.scalar(select(func.count()).where(*family)) or 0
        if living >= limit:
            raise QuotaExceeded(
                f"{root!r} has {living} living agents, and {limit} are allowed: deactivate one, "
                "or raise agents_per_owner in the policy",
                username=root,
                limit=limit,
            )
        if owner.kind != "agent":
            return
        # What agents make never takes the places that are kept for agents that people make.
        theirs = limit - limit // _KEPT_FOR_PEOPLE
        made = connection.scalar(select(func.count()).where(*family, UserRow.owner != root)) or 0
        if made >= theirs:
            raise QuotaExceeded(
                f"the agents of {root!r} have made {made} living agents, and may make {theirs} of "
                f"the {limit} that are allowed: deactivate one, or raise agents_per_owner in the "
                "policy",
                username=root,
                limit=theirs,
            )
        most = self._policy.agents_per_creator
        while owner.kind == "agent":
            made = self._count_made_by(connection, owner.username)
            if made >= most:
                raise QuotaExceeded(
                    f"{owner.username!r} has made {made} living agents, with those that they made, "
                    f"and {most} are allowed: deactivate one, or raise agents_per_creator in the "
                    "policy",
                    username=owner.username,
                    limit=most,
                )
            # What an agent's agents make counts as its own too.
            owner = find_account(connection, owner.owner)

    @staticmethod
    def _count_made_by(connection: Connection, agent: str) -> int:
        living = select(UserRow.username).where(UserRow.owner == agent, UserRow.active)
        made = living.cte(recursive=True)
        made = made.union(
            select(UserRow.username).where(UserRow.owner == made.c.username, UserRow.active)
        )
        return connection.scalar(select(func.count()).select_from(made)) or 0

    def find_in(self, connection: Connection, username: str) -> Row[Any]:
        """An account's row, in a transaction of the caller's that keeps its family as it is.

        What makes, ends or counts the accounts under one root owner follows each other by it.

        Raises:
            UserNotFound: There is none.
        """
        row = find_account(connection, username)
        self._database.lock(connection, f"family:{row.root_owner}")
        return find_account(connection, username)

    def get(self, username: str) -> User:
        """The account of that name.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is none.
        """
        with self._database.reading() as connection:
            return user_of(find_account(connection, require_username(username)))

    aget = off_the_loop(get)

    def list(self, *, owner: str | None = None) -> Sequence[User]:
        """All accounts by name, or those of one root owner."""
        query = select(UserRow.__table__).order_by(UserRow.username)
        if owner is not None:
            query = query.where(UserRow.root_owner == owner)
        with self._database.reading() as connection:
            return [user_of(row) for row in connection.execute(query)]

    alist = off_the_loop(list)  # noqa: A003 - the method is meant

    def deactivate(self, username: str, *, by: str = OPERATOR) -> Sequence[str]:
        """Ends an account, and those of all agents that it owns, at once and for good.

        Returns:
            The names of all accounts that were active and now aren't.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is none.
        """
        with self._database.writing(durable=True) as connection:
            name = self.find_in(connection, require_username(username)).username
            family = select(UserRow.username).where(UserRow.username == name).cte(recursive=True)
            family = family.union(
                select(UserRow.username).where(UserRow.owner == family.c.username)
            )
            ended = list(
                connection.scalars(
                    select(UserRow.username)
                    .where(UserRow.username.in_(select(family.c.username)), UserRow.active)
                    .order_by(UserRow.username)
                )
            )
            self._lock_accounts(connection, *ended)
            connection.execute(
                update(UserRow).where(UserRow.username.in_(ended)).values(active=False)
            )
            # An approval is good only with the factor by which it was given. Without the factor,
            # writing to the other columns brings neither the person nor the approval back.
            connection.execute(
                update(UserRow)
                .where(UserRow.username.in_(ended), UserRow.kind == "human", UserRow.domain == "")
                .values(totp_secret=None)
            )
            void_unused(connection, ended)
            for each in ended:
                self._core.record(connection, by, each, "user.deactivate", f"with {name}"[:64])
        return ended

    adeactivate = off_the_loop(deactivate)

    def unlock(
        self, username: str, *, lane: str | None = None, by: str = OPERATOR
    ) -> Sequence[LaneInfo]:
        """Ends locks about an account, so that its short codes are checked again.

        A lane that has used up its wrong guesses of the year stays as it is, however often it is
        unlocked: it evaluates one code after each lock, of 30 days at most, and a right one is
        accepted. Meanwhile a person can use a recovery code, which has no lane, and an agent
        audience codes at other verifiers, proofs and spawns.

        Codes that were spent stay spent. It also repairs what was written while the clock was
        ahead: a spent time step that the clock hasn't reached becomes the last one that could have
        been spent until now, so that codes are good again after three periods (90 seconds). The
        steps that were spent after it are refused also when the clock gets there.

        Args:
            username: The account.
            lane: The only lane to unlock, as :meth:`lanes` names it; by default all of them.
            by: Who asked for it, for the record.

        Returns:
            The lanes among them that are still locked, with the end of each lock.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is none.
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
            self._core.record(connection, by, name, "user.unlock", lane or "")
        return [
            each for each in self.lanes(name) if each.locked_until and lane in (None, each.lane)
        ]

    aunlock = off_the_loop(unlock)

    def lanes(self, username: str) -> Sequence[LaneInfo]:
        """Lists the lanes about an account in which anything is counted.

        Failures of one lane change nothing in another. With a ledger in Redis this is what the
        database keeps of it, which is all but the failures of the last minute.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is none.
        """
        name = require_username(username)
        with self._database.reading() as connection:
            account = find_account(connection, name)
            rows = connection.execute(
                select(LedgerRow.__table__).where(LedgerRow.peer == name)
            ).all()
            now = ledger_now(self._database, connection, self._core.shared_clock)
        person = is_person(account)
        found = [lane_info(row, self._rules, now, person=person) for row in rows]
        shown = [e for e in found if e.failures or e.clock_trouble or e.allowance_used]
        return sorted(shown, key=lambda each: each.lane)

    alanes = off_the_loop(lanes)

    def rotate_totp(
        self, username: str, *, overlap: timedelta = timedelta(0), by: str = OPERATOR
    ) -> SecretStr:
        """Gives an agent a new TOTP secret.

        Nothing is spent of it yet. What was spent of the old secret stays spent while its codes are
        good. Locks about the agent end as by :meth:`unlock`: not in a lane that has used up its
        wrong guesses of the year, as a guess hits the new secret as often as the old.

        Args:
            username: The agent.
            overlap: How long codes and proofs under the old secret stay good; by default they
                don't. After a compromise leave it out. Keep it short: until it ends, two codes are
                right in each time step, so a wrong guess uses up twice as much of the year's
                allowance. Where that is used up, a short code under the old secret is refused.
            by: Who asked for it, for the record.

        Returns:
            The new ``otpauth://…`` URI, shown once.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is none.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            TypeError: The overlap isn't a ``timedelta``.
            ValueError: The overlap is negative, or longer than 366 days.
        """
        overlap = require_duration(overlap, "overlap", zero="ends the old secret now")
        secret = secrets.token_bytes(SECRET_BYTES)
        with self._database.writing(durable=True) as connection:
            self._lock_accounts(connection, require_username(username))
            row = find_agent(connection, username)
            connection.execute(
                update(UserRow)
                .where(UserRow.username == row.username)
                .values(
                    totp_secret=self._seal(connection, secret, totp_purpose(row.username)),
                    totp_previous=row.totp_secret if overlap else None,
                    totp_previous_until=self._clock() + overlap.total_seconds() if overlap else 0.0,
                )
            )
            self._begin_secret(connection, row.username)
            self._core.record(connection, by, row.username, "totp.rotate")
        return provisioning_uri(row.username, secret)

    arotate_totp = off_the_loop(rotate_totp)
