"""What the services of one ``Pipelit`` share: its database, keys, ledger, limits, clocks and audit.

Each service takes the whole of it, so that a new one gets the same parts as the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelit_agents.audit.records import entry, write

if TYPE_CHECKING:
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
        keyring: Returns the encryption keys; called when they are needed.
        ledger: Returns the ledger that counts attempts; called when it is needed.
        policy: The limits.
        clock: This process's clock, Unix seconds.
        shared_clock: The clock that all processes share, Unix seconds; None for that of the
            database server or of Redis, or of this machine where the database is a file.
    """

    database: Database
    keyring: Callable[[], Keyring]
    ledger: Callable[[], Ledger]
    policy: VerificationPolicy
    clock: Callable[[], float]
    shared_clock: Callable[[], float] | None = None

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
    ) -> None:
        """Write an entry of the audit trail, in the transaction of what it is about.

        Args:
            connection: The transaction.
            actor: Who did it.
            subject: Whom or what it was done to.
            action: What was done.
            reason: Why, in at most 64 characters. Never a secret.
            outcome: ``ok`` or ``refused``.
            at: When, Unix seconds; by default now.
        """
        written = entry(
            at=self.clock() if at is None else at,
            actor=actor,
            subject=subject,
            action=action,
            outcome=outcome,
            reason=reason,
        )
        write(connection, written)
