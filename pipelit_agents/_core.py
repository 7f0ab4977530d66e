"""The shared parts of one ``Pipelit``: its database, keys, ledger, limits, clocks and audit.

Each service gets the whole object, so that all services use the same parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelit_agents.audit.records import entry, recorded_name, write
from pipelit_agents.database.key_row import fitting_keyring
from pipelit_agents.ledger.common import ledger_now

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from pipelit_agents.database.engine import Database
    from pipelit_agents.database.fast_path import Open
    from pipelit_agents.ledger.common import Ledger
    from pipelit_agents.policy import VerificationPolicy
    from pipelit_agents.sealing.keyring import Keyring

__all__ = ["Core"]


@dataclass(frozen=True)
class Core:
    """The shared parts of one ``Pipelit``.

    Attributes:
        database: The accounts, credentials, approvals and audit.
        keyring: Returns the encryption keys; called at each use.
        ledger: Returns the ledger that counts attempts; called at each use.
        policy: The limits.
        clock: This process's clock, Unix seconds.
        shared_clock: The clock that all processes share, Unix seconds. None for the clock of the
            database server or of Redis, or of this machine if the database is a file.
        sleep: Waits for a number of seconds by that clock, for tests. None to really wait.
    """

    database: Database
    keyring: Callable[[], Keyring]
    ledger: Callable[[], Ledger]
    policy: VerificationPolicy
    clock: Callable[[], float]
    shared_clock: Callable[[], float] | None = None
    sleep: Callable[[float], None] | None = None

    def shared_now(self, connection: Connection) -> float:
        """Return the time by the clock that all processes share, Unix seconds.

        Args:
            connection: A transaction, in which the database server is asked.
        """
        return float(ledger_now(self.database, connection, self.shared_clock))

    def fitting_keyring(self, connection: Connection) -> Keyring:
        """Return the keys to encrypt or tag with, in the transaction of the write.

        Raises:
            ConfigurationError: There is no key, or the newest one isn't this database's.
        """
        return fitting_keyring(connection, self.keyring())

    def record(
        self,
        connection: Open,
        actor: str,
        subject: str,
        action: str,
        reason: str = "",
        *,
        outcome: str = "ok",
        at: float | None = None,
        person: str = "",
    ) -> None:
        """Write an entry of the audit trail, in the transaction of the recorded action.

        Args:
            connection: The transaction.
            actor: The name of the actor.
            subject: The account or object of the action.
            action: The action.
            reason: The reason, at most 64 characters. Never a secret.
            outcome: ``ok`` or ``refused``.
            at: The time, Unix seconds; by default now.
            person: The person for whom a credential is opened, or whose own one it is.
        """
        written = entry(
            at=self.clock() if at is None else at,
            actor=actor,
            subject=subject,
            action=action,
            outcome=outcome,
            reason=reason,
            person=person,
        )
        write(connection, written)

    def record_refusal(self, actor: str, subject: str, action: str, reason: str) -> None:
        """Write an entry about a refusal, in a transaction of its own.

        Names that nobody has are left out if they may be secrets: see ``recorded_name``.
        """
        with self.database.deciding() as connection:
            names = recorded_name(connection, actor), recorded_name(connection, subject)
            self.record(connection, *names, action, reason, outcome="refused")
