"""What every ledger is and does, wherever it counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from sqlalchemy import Connection, text

from pipelit_agents.audit.records import entry, recorded_name, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Open
from pipelit_agents.ledger.attempts import Attempt, Decision, LaneKind, Proposal

__all__ = ["Ledger", "at_moment", "ledger_now", "lock_attempt", "record_decision", "write_decision"]

_LOCK: Final = "lane.lock"


class Ledger(Protocol):
    """Counts attempts and lets no code be used twice, each in one atomic step.

    Let ``pipelit_agents.testing.LedgerSuite`` test a ledger of your own.
    """

    def decide(self, attempt: Attempt) -> Decision:
        """Decide one attempt. The decision is durable and audited when this returns.

        Raises:
            LedgerUnavailable: Attempts can't be counted; nothing is accepted.
            UnsealError: The peer's secret doesn't open under this keyring.
        """

    def check(self) -> str:
        """Check that the ledger can count, and return its address without a password.

        Raises:
            LedgerUnavailable: It can't be reached, or it refuses.
        """

    def close(self) -> None:
        """Close its own connections; the next use opens new ones."""


def record_decision(
    connection: Open,
    attempt: Attempt,
    decision: Decision,
    reason: str,
    *,
    locked: LaneKind | None = None,
) -> Decision:
    """Count, spend and audit the decision of a ledger of your own, in its transaction.

    Every ledger's lanes and spent steps are kept in the database too, under the same rules. So a
    ledger of your own can refuse more than the database's, and never less: where it accepts a code
    that the database knows to be spent, or in a lane that is locked there, the code is refused.

    Args:
        connection: In that transaction.
        attempt: The attempt.
        decision: The decision.
        reason: The true reason.
        locked: The lane that this failure locked for the first time. That is a row of its own,
            with the action ``lane.lock``, so that it can be watched for.

    Returns:
        The decision that counts; return it from ``Ledger.decide``.

    Raises:
        LedgerUnavailable: Another attempt about the peer was decided meanwhile, because
            ``lock_attempt`` wasn't called first.
    """
    if attempt.guard is not None:
        return attempt.guard.settle(connection, attempt, Proposal(decision, reason, locked))
    write_decision(connection, attempt, decision, reason, locked=locked)
    return decision


def write_decision(
    connection: Open,
    attempt: Attempt,
    decision: Decision,
    reason: str,
    *,
    locked: LaneKind | None = None,
) -> None:
    """Write the audit row of an attempt; the arguments are those of ``record_decision``.

    A ledger of this package has counted and spent in the database by itself.
    """
    # Looked up whatever was decided: the reason may be a lock, or be in another ledger's words.
    actor = recorded_name(connection, attempt.named or attempt.verifier)
    subject = recorded_name(connection, attempt.named or attempt.peer)
    rows = [
        entry(
            at=decision.at,
            actor=actor,
            subject=subject,
            action=f"verify.{attempt.kind}",
            outcome="ok" if decision.verdict == "accepted" else "refused",
            reason=attempt.unfit or reason,
        )
    ]
    if locked is not None:
        words = "audience" if locked == "pair" else locked
        rows.insert(0, rows[0] | {"action": _LOCK, "reason": f"locked lane: {words}"})
    write(connection, *rows)
    if attempt.guard is not None:
        attempt.guard.note(decision)


def lock_attempt(database: Database, connection: Open, attempt: Attempt) -> None:
    """Make attempts about one peer follow each other, and deactivations wait for them.

    Call it first in the transaction that decides, before anything is read.
    """
    if connection.dialect.name == "sqlite":
        # Where every transaction that writes follows the other.
        return
    accounts = sorted({f"account:{attempt.peer}", f"account:{attempt.verifier}"})
    database.lock(connection, *accounts, shared=True)
    database.lock(connection, f"ledger:{attempt.peer}")


def ledger_now(
    database: Database, connection: Connection, clock: Callable[[], float] | None
) -> float:
    """Return the moment by the clock that decides, Unix seconds.

    Args:
        database: The database.
        connection: In a transaction on it.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
    """
    if clock is not None:
        return clock()
    now: float | None = connection.scalar(text(f"SELECT {database.server_clock}"))
    return time.time() if now is None else now


def at_moment(clock: Callable[[], float] | None, of_the_server: float | None) -> float:
    """Return the moment by the ledger's clock, Unix seconds.

    Args:
        clock: The ledger's clock; None for the database server's, or the machine's.
        of_the_server: The database server's time; None where the database is a file.
    """
    if clock is not None:
        # As fine as other ledgers write it down.
        return round(clock(), 6)
    return time.time() if of_the_server is None else of_the_server
