"""Create people and agents, and deactivate accounts; ``Users`` is all of ``pipelit.users``."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, select, update

from pipelit_agents._bounds import require_flag
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.account_lanes import AccountLanes
from pipelit_agents.accounts.account_lists import AccountLists
from pipelit_agents.accounts.agent_changes import AgentChanges
from pipelit_agents.accounts.api_keys import FIRST_KEY, ApiKeys
from pipelit_agents.accounts.lookup import AccountRow, find_account, require_purpose
from pipelit_agents.accounts.models import (
    NewAgent,
    NewUser,
    Role,
    role_of,
)
from pipelit_agents.accounts.peers import Peers
from pipelit_agents.accounts.quota import require_quota
from pipelit_agents.accounts.roles import Roles, require_role
from pipelit_agents.accounts.service import SECRET_BYTES
from pipelit_agents.approvals.approvers import void_unused
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import (
    NotPermitted,
    UserInactive,
)
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_new_username, require_username
from pipelit_agents.sealing.purposes import totp_purpose

__all__ = ["Users"]


class Users(AccountLists, AccountLanes, AgentChanges, ApiKeys, Peers, Roles):
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
        role: Role | None = None,
        key_expires_at: datetime | None = None,
        created_by: str = OPERATOR,
    ) -> NewUser:
        """Create the account of a person, with one API key.

        Args:
            username: 1 to 149 of ``a-z 0-9 _ . -``, the first a letter or digit.
            role: ``operator`` or ``member``. By default an operator while there is none, and a
                member otherwise.
            key_expires_at: The time from which the API key isn't accepted; with a time zone.
            created_by: The requester's name, for the audit.

        Raises:
            InvalidUsername: The username is malformed.
            UserExists: The name is taken.
            ValueError: ``role`` is another word, or ``key_expires_at`` is past.
        """
        name = require_new_username(username)
        with self._database.writing(durable=True) as connection:
            return self.create_in(
                connection, name, role=role, key_expires_at=key_expires_at, created_by=created_by
            )

    acreate: Final = off_the_loop(create)

    def create_first_operator(
        self,
        username: str,
        *,
        key_expires_at: datetime | None = None,
        created_by: str = OPERATOR,
    ) -> NewUser:
        """Create an operator, only while there is none. Of many calls at once, one succeeds.

        Args:
            username: As for ``create``.
            key_expires_at: As for ``create``.
            created_by: The requester's name, for the audit.

        Raises:
            InvalidUsername: The username is malformed.
            UserExists: The name is taken.
            NotPermitted: There is an active operator.
            ValueError: ``key_expires_at`` is past.
        """
        name = require_new_username(username)
        with self._database.writing(durable=True) as connection:
            self._lock_operators(connection)
            if self._role_of_new(connection, None) != "operator":
                raise NotPermitted("there is an operator already, who can create other people")
            return self.create_in(
                connection,
                name,
                role="operator",
                key_expires_at=key_expires_at,
                created_by=created_by,
            )

    acreate_first_operator: Final = off_the_loop(create_first_operator)

    def create_in(
        self,
        connection: Connection,
        username: str,
        *,
        role: Role | None = None,
        key_name: str = FIRST_KEY,
        key_expires_at: datetime | None = None,
        created_by: str = OPERATOR,
    ) -> NewUser:
        """Create a person as ``create`` does, in the caller's transaction."""
        wanted = None if role is None else require_role(role)
        self._lock_operators(connection)
        given = self._role_of_new(connection, wanted)
        self._insert(
            connection,
            username,
            kind="human",
            root_owner=username,
            created_by=created_by,
            role=given,
        )
        expires = self._expiry("key_expires_at", key_expires_at)
        key = self._insert_key(connection, username, key_name, expires, created_by)
        return NewUser(username, key.api_key, given)

    def create_agent(
        self,
        username: str,
        *,
        owner: str,
        purpose: str,
        may_create_agents: bool | None = None,
        key_expires_at: datetime | None = None,
        created_by: str | None = None,
    ) -> NewAgent:
        """Create an agent user with a TOTP secret and an API key. It never has a password.

        Args:
            username: As for a person.
            owner: An active person, or an active agent that may create agents.
            purpose: What the agent is for, in a few words.
            may_create_agents: Whether the agent may create agents itself. By default an agent of a
                person may, and an agent created by an agent may not.
            key_expires_at: The time from which its API key isn't accepted; with a time zone.
            created_by: The requester's name, for the audit; by default the owner's.

        Raises:
            InvalidUsername: The username is malformed.
            UserExists: The name is taken.
            UserNotFound: There is no such owner.
            UserInactive: The owner was deactivated.
            NotPermitted: The owner is a peer, or an agent that may not create agents.
            QuotaExceeded: The root owner, or an agent among the owners, has as many active agents
                as the policy allows.
            ConfigurationError: There is no key to encrypt its TOTP secret with.
            TypeError: The purpose isn't text, or ``may_create_agents`` isn't a bool.
            ValueError: The purpose is empty, or ``key_expires_at`` is past.
        """
        name = require_new_username(username)
        with self._database.writing(durable=True) as connection:
            return self.create_agent_in(
                connection,
                name,
                owner=owner,
                purpose=purpose,
                may_create_agents=may_create_agents,
                key_expires_at=key_expires_at,
                created_by=created_by,
            )

    acreate_agent: Final = off_the_loop(create_agent)

    def create_agent_in(
        self,
        connection: Connection,
        username: str,
        *,
        owner: str,
        purpose: str,
        may_create_agents: bool | None = None,
        key_name: str = FIRST_KEY,
        key_expires_at: datetime | None = None,
        created_by: str | None = None,
    ) -> NewAgent:
        """Create an agent as ``create_agent`` does, in the caller's transaction."""
        belongs_to = self.find_in(connection, require_username(owner, argument="owner"))
        self._require_may_own(connection, belongs_to)
        if may_create_agents is None:
            may_create_agents = belongs_to.kind == "human"
        require_flag(may_create_agents, "may_create_agents")
        root = belongs_to.root_owner
        requester = owner if created_by is None else created_by
        secret = secrets.token_bytes(SECRET_BYTES)
        self._insert(
            connection,
            username,
            kind="agent",
            owner=owner,
            root_owner=root,
            purpose=require_purpose(purpose),
            may_create_agents=may_create_agents,
            totp_secret=self._seal(connection, secret, totp_purpose(username)),
            created_by=requester,
        )
        expires = self._expiry("key_expires_at", key_expires_at)
        key = self._insert_key(connection, username, key_name, expires, requester)
        return NewAgent(username, key.api_key, provisioning_uri(username, secret))

    def require_may_own_agent(self, owner: str) -> None:
        """Require that an account may own one more agent, before a code is spent on creating it.

        ``create_agent`` decides again, when no other request can interfere.

        Args:
            owner: The person or agent that will own the agent.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            UserInactive: It was deactivated.
            NotPermitted: It may not create agents.
            QuotaExceeded: The root owner, or an agent among the owners, has as many active agents
                as the policy allows.

        Example:
            ```python
            pipelit.users.require_may_own_agent("alice")
            pipelit.mfa.verify("alice", code)
            pipelit.users.create_agent("agent_writer", owner="alice", purpose="writes reports")
            ```
        """
        name = require_username(owner, argument="owner")
        with self._database.reading() as connection:
            self._require_may_own(connection, find_account(connection, name))

    arequire_may_own_agent: Final = off_the_loop(require_may_own_agent)

    def _require_may_own(self, connection: Connection, belongs_to: AccountRow) -> None:
        owner = belongs_to.username
        if not belongs_to.active:
            raise UserInactive(f"owner {owner!r} was deactivated", username=owner)
        if belongs_to.domain:
            raise NotPermitted(
                f"{owner!r} is a peer of the domain {belongs_to.domain!r}: it can't own agents "
                "here",
                username=owner,
            )
        if belongs_to.kind == "agent" and not belongs_to.may_create_agents:
            raise NotPermitted(
                f"agent {owner!r} may not create agents; an operator may create it with "
                "may_create_agents=True",
                username=owner,
            )
        require_quota(connection, belongs_to, self._policy)

    def find_in(self, connection: Connection, username: str) -> AccountRow:
        """Lock the accounts of one root owner in the caller's transaction, and return a row.

        The lock serializes transactions that create, deactivate or count these accounts.

        Raises:
            UserNotFound: There is no such account.
        """
        row = find_account(connection, username)
        self._database.lock(connection, f"family:{row.root_owner}")
        return find_account(connection, username)

    def deactivate(self, username: str, *, by: str = OPERATOR) -> Sequence[str]:
        """Deactivate an account and all agents that it owns, immediately and permanently.

        A person's own credentials stay stored, and can't be opened any more: see
        ``Credentials.list`` and ``Credentials.delete_all``.

        Returns:
            The names of all accounts that this call deactivated.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            LastOperator: It is the last active operator, and ``by`` isn't ``operator``, your own
                code.
        """
        with self._database.writing(durable=True) as connection:
            found = find_account(connection, require_username(username))
            if role_of(found):
                self._lock_operators(connection)
            row = self.find_in(connection, found.username)
            self._require_another_operator(connection, row, by)
            name = row.username
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
            # An approval is valid only with the factor by which it was given. Without the factor,
            # write access to the other columns restores neither the person nor the approval.
            connection.execute(
                update(UserRow)
                .where(UserRow.username.in_(ended), UserRow.kind == "human", UserRow.domain == "")
                .values(totp_secret=None)
            )
            void_unused(connection, ended)
            for each in ended:
                self._core.record(connection, by, each, "user.deactivate", f"with {name}"[:64])
        return ended

    adeactivate: Final = off_the_loop(deactivate)
