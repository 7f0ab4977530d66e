"""The base class of the parts of ``Users``: the core, and storing an account."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, insert, select

from pipelit_agents._bounds import require_moment
from pipelit_agents._core import Core
from pipelit_agents.accounts.lookup import storable
from pipelit_agents.audit.refusals import Refusals
from pipelit_agents.database.models import UserRow
from pipelit_agents.errors import (
    UserExists,
)
from pipelit_agents.ledger.rules import Rules
from pipelit_agents.ledger.unlocking import begin_secret
from pipelit_agents.protocol.usernames import OPERATOR
from pipelit_agents.sealing.keyring import Sealed

__all__ = ["AccountService"]

SECRET_BYTES: Final = 32


class AccountService:
    """The base class of the parts of ``Users``.

    Args:
        core: The database, the keys that encrypt TOTP secrets, the quota and the limits.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._policy = core.policy
        self._clock = core.clock
        self._rules = Rules(core.policy)
        self.refusals: Refusals = Refusals(core.database, core.clock)

    def _seal(self, connection: Connection, secret: bytes, purpose: str) -> Sealed:
        return Sealed(self._core.fitting_keyring(connection).seal(secret, purpose), purpose)

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
        # Running verifications end first, and later ones read the changed accounts.
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
        role: Literal["operator", "member", ""] = "",
    ) -> None:
        self._lock_accounts(connection, username)
        taken = select(UserRow.username).where(UserRow.username == username)
        # No account's audit entries may look like the operator's.
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
                purpose=storable(purpose, "purpose"),
                active=True,
                may_create_agents=may_create_agents,
                totp_secret=totp_secret,
                totp_previous_until=0.0,
                created_at=self._clock(),
                created_by=storable(created_by, "created_by")[:149],
                domain=domain,
                relation=relation,
                role=role,
            )
        )
        # Guesses from before the account existed don't lock it.
        self._begin_secret(connection, username)
        action = "peer.enroll" if domain else f"{kind}.create"
        self._core.record(connection, created_by, username, action, role)

    def _expiry(self, argument: str, at: datetime | None) -> float | None:
        if at is None:
            return None
        expires = require_moment(at, argument)
        if expires <= self._clock():
            raise ValueError(f"{argument} is past ({at:%Y-%m-%d %H:%M %Z}): pass a later time")
        return expires
