"""Making a ledger when it is first needed: the one of a setting, or one of the user's own."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.ledger.common import Ledger
from pipelit_agents.ledger.own import GuardedLedger
from pipelit_agents.ledger.redis import RedisLedger
from pipelit_agents.ledger.sql import SqlLedger
from pipelit_agents.policy import VerificationPolicy

__all__ = ["LedgerContext", "LedgerFactory", "OpenedLedger", "require_factory"]

_METHODS: Final = ("decide", "check", "close")


@dataclass(frozen=True, slots=True)
class LedgerContext:
    """What a ledger needs to decide.

    Attributes:
        database: The database with the accounts, the audit and the durable part of every ledger.
        policy: The limits.
        clock: The ledger's clock, Unix seconds; None for the clock of the server that counts, so
            that all processes share one.
    """

    database: Database
    policy: VerificationPolicy
    clock: Callable[[], float] | None


LedgerFactory = Callable[[LedgerContext], Ledger]


def require_factory(ledger: object) -> None:
    """Refuse anything but a synchronous function of one argument.

    Raises:
        ConfigurationError: It is something else.
    """
    if ledger is None:
        return
    how = "for example ledger=lambda context: MyLedger(context.database, context.policy)"
    if not callable(ledger):
        raise ConfigurationError(
            "ledger must be a function that takes a LedgerContext and returns a ledger, not "
            f"{type(ledger).__name__}; {how}"
        )
    if inspect.iscoroutinefunction(ledger):
        raise ConfigurationError(f"ledger must be a synchronous function; {how}")


class OpenedLedger:
    """The ledger of one ``Pipelit``, made at first use and once.

    Args:
        context: What a ledger needs to decide.
        redis_url: Returns the address of a Redis, or an empty string.
        factory: Makes a ledger of the user's own.
    """

    def __init__(
        self,
        context: LedgerContext,
        redis_url: Callable[[], str],
        factory: LedgerFactory | None = None,
    ) -> None:
        self._context = context
        self._redis_url = redis_url
        self._factory = factory
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Make a new lock, and a new ledger at the next use.

        Another thread of the parent may hold the old lock, and the parent's ledger may have
        connections that the two processes can't share.
        """
        self._opening = threading.RLock()
        self._ledger: Ledger | None = None

    def open(self) -> Ledger:
        """Return the ledger.

        Raises:
            ConfigurationError: There are two ledgers to choose from, or the function returned
                something that is no ledger.
        """
        if self._ledger is None:
            with self._opening:
                if self._ledger is None:
                    self._ledger = self._made()
        return self._ledger

    def close(self) -> None:
        """Close the ledger's connections, if it was made."""
        if self._ledger is not None:
            self._ledger.close()

    def _made(self) -> Ledger:
        context, url = self._context, self._redis_url()
        if self._factory is None:
            if url:
                return RedisLedger(context.database, context.policy, url, context.clock)
            return SqlLedger(context.database, context.policy, context.clock)
        if url:
            raise ConfigurationError(
                "a Pipelit has one ledger: leave out either ledger or redis_url (the setting "
                "PIPELIT_REDIS_URL)"
            )
        made = self._factory(context)
        missing = [each for each in _METHODS if not callable(getattr(made, each, None))]
        if missing:
            raise ConfigurationError(
                f"ledger returned {type(made).__name__}, which has no method {missing[0]}(): a "
                "ledger has the methods of pipelit_agents.ledger.Ledger"
            )
        if inspect.iscoroutinefunction(made.decide):
            raise ConfigurationError(
                f"ledger returned {type(made).__name__}, whose method decide() is async: a ledger "
                "decides synchronously"
            )
        counted = SqlLedger(context.database, context.policy, context.clock)
        return GuardedLedger(made, context.database, counted)
