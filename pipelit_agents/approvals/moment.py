"""A transaction about approvals, with the one time at which everything in it is decided."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection

from pipelit_agents._core import Core
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["Moment"]


class Moment(NamedTuple):
    """A transaction and the time of its decisions.

    Make it after the locks are taken. A transaction may wait for them, and an earlier time would
    be outdated.

    Attributes:
        core: The database, the keys and the clocks.
        connection: The transaction.
        now: The time by the clock that all processes share, Unix seconds.
    """

    core: Core
    connection: Connection
    now: float

    @classmethod
    def of(cls, core: Core, connection: Connection) -> Moment:
        """Return the present moment of a transaction."""
        return cls(core, connection, core.shared_now(connection))

    @property
    def keyring(self) -> Keyring:
        """The keys that verify tags and decrypt."""
        return self.core.keyring()

    @property
    def fitting_keyring(self) -> Keyring:
        """The keys to encrypt or tag with: see ``Core.fitting_keyring``."""
        return self.core.fitting_keyring(self.connection)

    def record(
        self, actor: str, subject: str, action: str, reason: str, *, outcome: str = "ok"
    ) -> None:
        """Write an entry of the audit trail: see ``Core.record``."""
        self.core.record(
            self.connection, actor, subject, action, reason, outcome=outcome, at=self.now
        )
