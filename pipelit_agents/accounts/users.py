"""Accounts: people, agent users and peers, their API keys, and what an operator does with them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from pydantic import SecretStr
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from pipelit_agents._bounds import require_duration, require_moment
from pipelit_agents._core import Core
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.lookup import find_account, find_agent
from pipelit_agents.accounts.models import (
    ApiKeyInfo,
    LaneInfo,
    NewAgent,
    NewApiKey,
    NewUser,
    User,
    lane_info,
    moment_of,
    user_of,
)
from pipelit_agents.approvals.register import void_unused
from pipelit_agents.audit.refusals import Refusals
from pipelit_agents.database.fast_path import Statement
from pipelit_agents.database.key_match import require_fitting
from pipelit_agents.database.models import ApiKeyRow, LedgerRow, PeeringRow, UserRow
from pipelit_agents.errors import (
    ApiKeyNotFound,
    AuthenticationError,
    NotPermitted,
    QuotaExceeded,
    UserExists,
    UserInactive,
)
from pipelit_agents.ledger.base import (
    begin_secret,
    is_person,
    ledger_now,
    read_lane_name,
    unlock,
)
from pipelit_agents.ledger.rules import Rules
from pipelit_agents.protocol.peering_uri import Enrolment, read_uri
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.keyring import Sealed
from pipelit_agents.sealing.purposes import holds, peering_purpose, totp_purpose

__all__ = ["Users"]

_TOKEN: Final = re.compile(r"plit_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")
_READ_KEY: Final = Statement(
    "SELECT k.digest, k.revoked_at, k.expires_at, k.last_used_at, u.username, u.kind, u.owner, "
    "u.root_owner, u.purpose, u.active, u.may_create_agents, u.created_at, u.created_by, u.domain "
    "FROM pipelit_api_keys k JOIN pipelit_users u ON u.username = k.username WHERE k.id = :id"
)
_LAST_USED_EVERY: Final = 60.0
_SECRET_BYTES: Final = 32
# One in so many of an owner's places is for agents that people make.
_KEPT_FOR_PEOPLE: Final = 4


class Users:
    """The accounts of one database; ``pipelit.users``.

    Args:
        core: The database, the keys that encrypt TOTP secrets, the quota and the limits.

    Attributes:
        refusals: Refused API keys that aren't in the audit yet.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._policy = core.policy
        self._clock = core.clock
        self._rules = Rules(core.policy)
        self.refusals = Refusals(core.database, core.clock)

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
        secret = secrets.token_bytes(_SECRET_BYTES)
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
        secret = secrets.token_bytes(_SECRET_BYTES)
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

    def issue_peering(self, agent: str, *, domain: str, by: str = OPERATOR) -> SecretStr:
        """Gives an agent a secret by which it proves itself to one other domain, and to no other.

        Another for the same domain replaces the one before, which is no longer used.

        Args:
            agent: The agent.
            domain: What the other domain is called here; it has the form of a username.
            by: Who asked for it, for the record.

        Returns:
            The ``otpauth://…`` URI that the other domain enrols, shown once.

        Raises:
            InvalidUsername: A name has another form.
            UserNotFound: There is no such account.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            ConfigurationError: There is no key to seal the secret under.
        """
        require_username(agent, argument="agent")
        require_username(domain, argument="domain")
        secret, relation = secrets.token_bytes(_SECRET_BYTES), secrets.token_hex(16)
        purpose = peering_purpose(relation)
        with self._database.writing(durable=True) as connection:
            self._lock_accounts(connection, agent)
            find_agent(connection, agent)
            connection.execute(
                delete(PeeringRow).where(PeeringRow.agent == agent, PeeringRow.domain == domain)
            )
            connection.execute(
                insert(PeeringRow).values(
                    relation=relation,
                    agent=agent,
                    domain=domain,
                    secret=self._seal(connection, secret, purpose),
                    created_at=self._clock(),
                    created_by=_storable(by, "by")[:149],
                )
            )
            self._core.record(connection, by, agent, "peering.issue", domain)
        return provisioning_uri(agent, secret, relation)

    aissue_peering = off_the_loop(issue_peering)

    @discreet
    def enroll_peer(
        self, uri: str | SecretStr, *, name: str, domain: str, by: str = OPERATOR
    ) -> User:
        """Makes the account of another domain's agent, which is verified here and not acted as.

        It gets no API key; see :meth:`issue_api_key`. A peer that was deactivated may be enrolled
        anew from the same domain: its secret is replaced, and all its API keys are revoked. Where
        it is the secret of before, codes that were spent stay spent, and locks go on.

        Args:
            uri: What that domain's ``issue_peering`` returned.
            name: The agent's name, here as there.
            domain: What that domain is called here; it has the form of a username.
            by: Who asked for it, for the record.

        Raises:
            InvalidUsername: A name has another form.
            ValueError: The URI is not of this account, has a secret that is too short, or asks
                for what isn't spoken here; or another account has this secret.
            UserExists: The name is taken by anybody but a deactivated peer of that domain.
            ConfigurationError: There is no key to seal the secret under.
        """
        uri = SecretStr(uri) if isinstance(uri, str) else uri
        require_username(name, argument="name")
        require_username(domain, argument="domain")
        peer = read_uri(uri, name=name)
        with self._database.writing(durable=True) as connection:
            sealed = self._seal(connection, peer.secret, totp_purpose(name))
            self._lock_accounts(connection, name)
            before = connection.execute(
                select(UserRow.__table__).where(UserRow.username == name)
            ).one_or_none()
            if before is not None and (before.active or before.domain != domain):
                fix = "; deactivate it first" if before.domain == domain else ""
                raise UserExists(f"there is an account {name!r} already{fix}", username=name)
            self._require_unshared(connection, name, peer)
            if before is None:
                self._insert(
                    connection,
                    name,
                    kind="human",
                    root_owner=name,
                    totp_secret=sealed,
                    created_by=by,
                    domain=domain,
                    relation=peer.relation,
                )
            else:
                self._enroll_anew(connection, name, sealed, peer.secret, peer.relation, by)
            return user_of(find_account(connection, name))

    aenroll_peer = off_the_loop(enroll_peer)

    def issue_api_key(
        self,
        username: str,
        *,
        name: str,
        expires_at: datetime | None = None,
        by: str = OPERATOR,
    ) -> NewApiKey:
        """Makes another API key of an account.

        Args:
            username: Whose key it is to be.
            name: What to list it as.
            expires_at: From when it isn't accepted; with a time zone.
            by: Who asked for it, for the record.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is no such account.
            UserInactive: It was deactivated.
            ValueError: The expiry has no time zone, or is past.
        """
        expires = self._expiry("expires_at", expires_at)
        with self._database.writing(durable=True) as connection:
            row = find_account(connection, require_username(username))
            if not row.active:
                raise UserInactive(f"{username!r} was deactivated", username=username)
            return self._insert_key(connection, row.username, name, expires, by)

    aissue_api_key = off_the_loop(issue_api_key)

    def revoke_api_key(self, key_id: str, *, by: str = OPERATOR) -> None:
        """Ends an API key, at once. Revoking it twice does nothing.

        Args:
            key_id: Its public id, the middle part of the key.
            by: Who asked for it, for the record.

        Raises:
            ApiKeyNotFound: No key has that id.
        """
        if not isinstance(key_id, str) or key_id.startswith("plit_"):
            # Never repeated: that would be a piece of the key.
            raise ApiKeyNotFound(
                "key_id: give the 12 characters between the underscores, not the key "
                "(pipelit-agents users keys list NAME, or list_api_keys)"
            )
        with self._database.writing(durable=True) as connection:
            owner = connection.scalar(select(ApiKeyRow.username).where(ApiKeyRow.id == key_id))
            if owner is None:
                raise ApiKeyNotFound(f"no API key has the id {key_id!r:.13}; see list_api_keys")
            connection.execute(
                update(ApiKeyRow)
                .where(ApiKeyRow.id == key_id, ApiKeyRow.revoked_at.is_(None))
                .values(revoked_at=self._clock())
            )
            self._core.record(connection, by, owner, "key.revoke", key_id)

    arevoke_api_key = off_the_loop(revoke_api_key)

    def list_api_keys(self, username: str) -> Sequence[ApiKeyInfo]:
        """What is known of an account's API keys, oldest first.

        Raises:
            InvalidUsername: The name has another form.
            UserNotFound: There is no such account.
        """
        with self._database.reading() as connection:
            name = find_account(connection, require_username(username)).username
            rows = connection.execute(
                select(ApiKeyRow.__table__)
                .where(ApiKeyRow.username == name)
                .order_by(ApiKeyRow.created_at, ApiKeyRow.id)
            ).all()
        return [
            ApiKeyInfo(
                row.id,
                row.name,
                f"…{row.last_four}",
                datetime.fromtimestamp(row.created_at, UTC),
                moment_of(row.expires_at),
                moment_of(row.revoked_at),
                moment_of(row.last_used_at),
            )
            for row in rows
        ]

    alist_api_keys = off_the_loop(list_api_keys)

    @discreet
    def authenticate(self, bearer_token: str) -> User:
        """Finds whose API key this is.

        A failure is recorded, and never locks the account: the key can't be guessed. Of a flood of
        failures, the first twenty are recorded each, and then how many more there were. A success
        is recorded when the key was last used more than a minute ago.

        Args:
            bearer_token: What stands behind ``Bearer`` in the ``Authorization`` header.

        Raises:
            AuthenticationError: It isn't a key, or one that was revoked, has expired, or belongs
                to an account that was deactivated; the words are the same, and which of them it
                was is in the audit.
            TypeError: It isn't text: a ``SecretStr`` opens by ``get_secret_value()``.
        """
        if isinstance(bearer_token, SecretStr):
            # No header of a request is that, so it tells no stranger anything.
            raise TypeError(
                "bearer_token has to be text, not SecretStr: give api_key.get_secret_value()"
            )
        found = _TOKEN.match(bearer_token) if isinstance(bearer_token, str) else None
        key_id, secret = found.groups() if found else ("", "")
        now = self._clock()
        rows = self._database.fetch(_READ_KEY, {"id": key_id})
        row = rows[0] if rows else None
        genuine = hmac.compare_digest(_fingerprint(secret), row.digest if row else "0" * 64)
        reason = ""
        if row is None or not genuine:
            reason = "unknown key" if found else "malformed key"
        elif row.revoked_at is not None:
            reason = "revoked key"
        elif row.expires_at is not None and row.expires_at <= now:
            reason = "expired key"
        elif not row.active:
            reason = "account inactive"
        who = row.username if row is not None and genuine else ""
        if reason or row is None:
            self.refusals.note(who, reason)
            raise AuthenticationError
        if row.last_used_at is None or row.last_used_at <= now - _LAST_USED_EVERY:
            with self._database.writing() as connection:
                connection.execute(
                    update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=now)
                )
                self._core.record(connection, who, who, "authenticate", key_id)
        return user_of(row)

    aauthenticate = off_the_loop(authenticate)

    def _expiry(self, argument: str, at: datetime | None) -> float | None:
        if at is None:
            return None
        expires = require_moment(at, argument)
        if expires <= self._clock():
            raise ValueError(f"{argument} is past ({at:%Y-%m-%d %H:%M %Z}): name a later moment")
        return expires

    def _seal(self, connection: Connection, secret: bytes, purpose: str) -> Sealed:
        keyring = self._keyring()
        require_fitting(connection, keyring)
        return Sealed(keyring.seal(secret, purpose), purpose)

    def _require_unshared(self, connection: Connection, name: str, peer: Enrolment) -> None:
        # Who knows the secret of two relations can play the one's part in the other; and a plain
        # code of an account here would be good for both.
        peers = connection.execute(
            select(UserRow.username, UserRow.totp_secret, UserRow.relation).where(
                UserRow.username != name, UserRow.totp_secret.is_not(None)
            )
        ).all()
        issued = connection.execute(select(PeeringRow.relation, PeeringRow.secret)).all()
        sealed = [Sealed(each.totp_secret.token, totp_purpose(each.username)) for each in peers]
        sealed += [Sealed(each.secret.token, peering_purpose(each.relation)) for each in issued]
        relations = {each.relation for each in (*peers, *issued)} - {""}
        if peer.relation in relations or holds(self._keyring(), sealed, peer.secret):
            raise ValueError(
                "secret: this database has it already, for another peer or as one that it issued "
                "itself; have the other domain issue one for this peer alone"
            )

    def _enroll_anew(
        self,
        connection: Connection,
        name: str,
        sealed: Sealed,
        secret: bytes,
        relation: str,
        by: str,
    ) -> None:
        now = self._clock()
        # What was spent of a secret stays spent when the same one is enrolled again.
        stored = connection.execute(
            select(UserRow.totp_secret, UserRow.totp_previous).where(UserRow.username == name)
        ).one()
        known = [each for each in stored if each is not None]
        tokens = [Sealed(each.token, totp_purpose(name)) for each in known]
        same = holds(self._keyring(), tokens, secret)
        connection.execute(
            update(UserRow)
            .where(UserRow.username == name)
            .values(
                active=True,
                relation=relation,
                totp_secret=sealed,
                totp_previous=None,
                totp_previous_until=0.0,
            )
        )
        connection.execute(
            update(ApiKeyRow)
            .where(ApiKeyRow.username == name, ApiKeyRow.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        if not same:
            # Nor is it good again when it is enrolled after another one.
            self._begin_secret(connection, name, spent=True)
        self._core.record(connection, by, name, "peer.enroll", "anew; its keys revoked")

    def _begin_secret(self, connection: Connection, username: str, *, spent: bool = False) -> None:
        begin_secret(
            self._database,
            connection,
            username,
            at=self._clock(),
            rules=self._rules,
            clock=self._core.shared_clock,
            spent=spent,
        )

    def _lock_accounts(self, connection: Connection, *usernames: str) -> None:
        # Verifications that have begun end first; none that begins later finds them as they were.
        self._database.lock(connection, *(f"account:{each}" for each in sorted(usernames)))

    def _insert(
        self,
        connection: Connection,
        username: str,
        *,
        kind: Literal["human", "agent"],
        root_owner: str,
        created_by: str,
        owner: str | None = None,
        purpose: str = "",
        may_create_agents: bool = False,
        totp_secret: Sealed | None = None,
        domain: str = "",
        relation: str = "",
    ) -> None:
        self._lock_accounts(connection, username)
        taken = select(UserRow.username).where(UserRow.username == username)
        # Nobody's entries in the audit shall look like the operator's.
        if username == OPERATOR or connection.scalar(taken) is not None:
            raise UserExists(
                f"there is an account {username!r} already: choose another name", username=username
            )
        connection.execute(
            insert(UserRow).values(
                username=username,
                kind=kind,
                owner=owner,
                root_owner=root_owner,
                purpose=_storable(purpose, "purpose"),
                active=True,
                may_create_agents=may_create_agents,
                totp_secret=totp_secret,
                totp_previous_until=0.0,
                created_at=self._clock(),
                created_by=_storable(created_by, "created_by")[:149],
                domain=domain,
                relation=relation,
            )
        )
        # Nobody is born locked by guesses that were made before.
        self._begin_secret(connection, username)
        action = "peer.enroll" if domain else f"{kind}.create"
        self._core.record(connection, created_by, username, action)

    def _insert_key(
        self,
        connection: Connection,
        username: str,
        name: str,
        expires_at: float | None,
        created_by: str,
    ) -> NewApiKey:
        key_id = secrets.token_hex(6)
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii").rstrip("=")
        connection.execute(
            insert(ApiKeyRow).values(
                id=key_id,
                username=username,
                name=_storable(name, "name")[:149],
                digest=_fingerprint(secret),
                last_four=secret[-4:],
                created_at=self._clock(),
                created_by=_storable(created_by, "created_by")[:149],
                expires_at=expires_at,
            )
        )
        self._core.record(connection, created_by, username, "key.issue", key_id)
        return NewApiKey(key_id, username, SecretStr(f"plit_{key_id}_{secret}"))


def _storable(words: str, argument: str) -> str:
    if not isinstance(words, str):
        raise TypeError(f"{argument} has to be text, not {type(words).__name__}")
    # PostgreSQL takes every character but this one.
    return words.replace("\0", "\ufffd")


def _fingerprint(secret: str) -> str:
    # No slow hash: the secret has 256 random bits, so that there is nothing to guess.
    return hashlib.sha256(secret.encode()).hexdigest()
