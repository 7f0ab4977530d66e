"""What can change about an agent: its purpose, its right to create agents, its TOTP secret."""

from __future__ import annotations

import hmac
import secrets
from datetime import timedelta
from typing import Final

from pydantic import SecretStr
from sqlalchemy import Connection, select, update

from pipelit_agents._bounds import require_duration, require_flag
from pipelit_agents._discretion import discreet
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.lookup import find_account, find_agent, require_purpose, storable
from pipelit_agents.accounts.models import User, user_of
from pipelit_agents.accounts.service import SECRET_BYTES, AccountService
from pipelit_agents.database.models import UserRow
from pipelit_agents.protocol.provisioning_uri import provisioning_uri
from pipelit_agents.protocol.usernames import OPERATOR, require_username
from pipelit_agents.sealing.purposes import totp_purpose

__all__ = ["AgentChanges"]


class AgentChanges(AccountService):
    """Changes of agents; a base class of ``Users``."""

    def change_agent(
        self,
        username: str,
        *,
        purpose: str | None = None,
        may_create_agents: bool | None = None,
        by: str = OPERATOR,
    ) -> User:
        """Change what an agent is for, and whether it may create agents.

        Its name and its owner can't change. Agents that it created stay.

        Args:
            username: The agent.
            purpose: What it is for, in a few words; by default unchanged.
            may_create_agents: Whether it may create agents; by default unchanged.
            by: The requester's name, for the audit.

        Returns:
            The changed account.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            TypeError: The purpose isn't text, or the other isn't a bool.
            ValueError: The purpose is empty.
        """
        with self._database.writing(durable=True) as connection:
            return self.change_agent_in(
                connection,
                require_username(username),
                purpose=purpose,
                may_create_agents=may_create_agents,
                by=by,
            )

    achange_agent: Final = off_the_loop(change_agent)

    def change_agent_in(
        self,
        connection: Connection,
        username: str,
        *,
        purpose: str | None = None,
        may_create_agents: bool | None = None,
        by: str = OPERATOR,
    ) -> User:
        """Change an agent as ``change_agent`` does, in the caller's transaction."""
        changed: dict[str, object] = {}
        if purpose is not None:
            changed["purpose"] = storable(require_purpose(purpose), "purpose")
        if may_create_agents is not None:
            changed["may_create_agents"] = require_flag(may_create_agents, "may_create_agents")
        self._lock_accounts(connection, username)
        row = find_agent(connection, username)
        if changed:
            connection.execute(
                update(UserRow).where(UserRow.username == row.username).values(changed)
            )
            self._core.record(connection, by, row.username, "agent.change", ", ".join(changed))
        return user_of(find_account(connection, row.username))

    def rotate_totp(
        self, username: str, *, overlap: timedelta = timedelta(0), by: str = OPERATOR
    ) -> SecretStr:
        """Replace an agent's TOTP secret.

        No codes of the new secret are spent. Spent codes of the old secret stay spent while its
        codes are valid. Locks about the agent end as with ``unlock``, except in a lane that has
        used up its wrong guesses of the year: guesses are as likely to hit the new secret.

        Args:
            username: The agent.
            overlap: How long codes and proofs under the old secret stay valid; by default not at
                all. Leave it out after a compromise. Keep it short: until it ends, two codes are
                right in each time step, so a wrong guess uses up twice as much of the year's
                allowance. If the allowance is used up, short codes of the old secret are refused.
            by: The requester's name, for the audit.

        Returns:
            The new ``otpauth://…`` URI. It can't be displayed again.

        Raises:
            InvalidUsername: The username is malformed.
            UserNotFound: There is no such account.
            NotLocalAgent: It is a person or a peer.
            UserInactive: It was deactivated.
            TypeError: The overlap isn't a ``timedelta``.
            ValueError: The overlap is negative, or longer than 366 days.
        """
        overlap = require_duration(overlap, "overlap", zero="ends the old secret now")
        with self._database.writing(durable=True) as connection:
            return self.rotate_totp_in(
                connection, require_username(username), overlap=overlap, by=by
            )

    arotate_totp: Final = off_the_loop(rotate_totp)

    def rotate_totp_in(
        self,
        connection: Connection,
        username: str,
        *,
        overlap: timedelta = timedelta(0),
        by: str = OPERATOR,
    ) -> SecretStr:
        """Replace a secret as ``rotate_totp`` does, in the caller's transaction."""
        secret = secrets.token_bytes(SECRET_BYTES)
        self._lock_accounts(connection, username)
        row = find_agent(connection, username)
        # By the clock that decides about codes: this machine's may be another.
        until = self._core.shared_now(connection) + overlap.total_seconds() if overlap else 0.0
        connection.execute(
            update(UserRow)
            .where(UserRow.username == row.username)
            .values(
                totp_secret=self._seal(connection, secret, totp_purpose(row.username)),
                totp_previous=row.totp_secret if overlap else None,
                totp_previous_until=until,
            )
        )
        self._begin_secret(connection, row.username)
        self._core.record(connection, by, row.username, "totp.rotate")
        return provisioning_uri(row.username, secret)

    @discreet
    def has_secret_in(self, connection: Connection, username: str, uri: str) -> bool:
        """Return whether a provisioning URI has an agent's current TOTP secret.

        Raises:
            UnsealError: The secret can't be decrypted with this keyring.
        """
        stored = connection.scalar(select(UserRow.totp_secret).where(UserRow.username == username))
        if stored is None:
            return False
        secret = self._keyring().unseal(stored.token, totp_purpose(username))
        expected = provisioning_uri(username, secret).get_secret_value()
        return hmac.compare_digest(expected.encode(), uri.encode())
