"""What every ledger decides, and in which words; where it counts is its own affair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from sqlalchemy import Connection, text

from pipelit_agents.audit import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.statement import Open, Statement
from pipelit_agents.proof import PERIOD

__all__ = [
    "Account",
    "Attempt",
    "CodeKind",
    "Decision",
    "Ledger",
    "Verdict",
    "account_at",
    "account_of",
    "last_forgotten",
    "lock_attempt",
    "record_decision",
    "unlock",
    "window_of",
]

CodeKind = Literal["audience", "plain"]
Verdict = Literal["accepted", "rejected", "limited", "locked"]

_KNOWN: Final = text(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step) VALUES (:peer, 'peer', '', 1, 0, '', 0, -1) ON CONFLICT DO NOTHING"
)
_EPOCH: Final = Statement(
    "UPDATE pipelit_epoch SET boot_id = :boot_id, changed_at = :at WHERE id = 1"
)
_UNLOCK: Final = text(
    "UPDATE pipelit_ledger SET in_a_row = 0, recent = '', locked_until = 0, "
    "version = version + 1, "
    "unlocks = CASE WHEN unlocks < :at THEN :at ELSE unlocks + 1 END WHERE peer = :peer"
)


class Account(NamedTuple):
    """What is needed of a peer to evaluate its code: its sealed secrets, and its peering."""

    username: str
    secret: str | None
    previous: str | None
    relation: str = ""


class Attempt(NamedTuple):
    """One attempt of a verifier to verify a peer; the names are in their normal form.

    Attributes:
        matches: Given the account (None if there is none) and a range of steps, those in which
            the code is right, in any order.
        named: The account that the caller named, where another name is counted in its place.
        unfit: Why no code of that account can be right; for the audit.
    """

    verifier: str
    peer: str
    kind: CodeKind
    matches: Callable[[Account | None, range], Sequence[int]]
    named: str = ""
    unfit: str = ""


class Decision(NamedTuple):
    """What the ledger decided; the true reason is in the audit only."""

    verdict: Verdict
    at: float
    step: int = 0
    retry_after: float | None = None


class Ledger(Protocol):
    """Counts attempts and spends codes, each in one atomic step."""

    def decide(self, attempt: Attempt) -> Decision:
        """Decides one attempt; it is durable, and audited, when this returns.

        Raises:
            LedgerUnavailable: Attempts can't be counted; nothing is accepted.
            UnsealError: The peer's secret doesn't open under this keyring.
        """

    def check(self) -> str:
        """Makes sure that it can count, and says where.

        Raises:
            LedgerUnavailable: It can't be reached, or refuses.
        """

    def close(self) -> None:
        """Closes connections of its own; the next use opens new ones."""


def account_at(now: float, peer: str, row: Any) -> Account | None:
    """What is needed of a peer whose row was read; None where it has no secret."""
    if row.totp_secret is None:
        return None
    previous = row.totp_previous if now < row.totp_previous_until else None
    return Account(peer, row.totp_secret, previous, row.relation)


def account_of(peer: str, row: Any, now: float) -> tuple[Account | None, str]:
    """The peer's account as a ledger read it, and why no code about it is accepted, or nothing."""
    account = account_at(now, peer, row)
    if not row.verifier_active:
        return account, "verifier unknown or inactive"
    if account is None:
        return None, "peer unknown"
    return account, "" if row.active else "peer inactive"


def last_forgotten(connection: Open, row: Any, epoch: str, now: float, window: int) -> int:
    """The last step that may have been spent in commits that a power cut undid.

    Where the machine was started anew since, that is written down.

    Args:
        connection: In the transaction that decides.
        row: With ``boot_id`` and ``changed_at`` as they stand in the database.
        epoch: Names the present life of the machine.
        now: By the ledger's clock.
        window: How many steps a code may be ahead of the clock: so much of the future may have
            been spent too.
    """
    changed_at = row.changed_at
    if row.boot_id != epoch or changed_at is None:
        changed_at = now
        _EPOCH.write(connection, {"boot_id": epoch, "at": now})
    return int(changed_at) // PERIOD + window


def window_of(now: float, window: int) -> range:
    """The steps in which a code is good at a moment."""
    present = int(now) // PERIOD
    return range(max(0, present - window), present + window + 1)


def record_decision(connection: Open, attempt: Attempt, decision: Decision, reason: str) -> None:
    """Writes the audit row of an attempt, in the transaction that decides."""
    write(
        connection,
        entry(
            at=decision.at,
            actor=attempt.named or attempt.verifier,
            subject=attempt.named or attempt.peer,
            action=f"verify.{attempt.kind}",
            outcome="ok" if decision.verdict == "accepted" else "refused",
            reason=attempt.unfit or reason,
        ),
    )


def lock_attempt(database: Database, connection: Open, attempt: Attempt) -> None:
    """Makes attempts about one peer follow each other, and deactivations wait for them."""
    if connection.dialect.name == "sqlite":
        # Where every transaction that writes follows the other.
        return
    accounts = sorted({f"account:{attempt.peer}", f"account:{attempt.verifier}"})
    database.lock(connection, *accounts, shared=True)
    database.lock(connection, f"ledger:{attempt.peer}")


def unlock(
    database: Database, connection: Connection, peer: str, *, at: float, insists: bool = False
) -> None:
    """Forgets the failures about a peer, in every ledger; what was spent stays spent.

    A ledger outside this database learns of it by the number of the peer's last unlock, which is
    the moment of it, so that it grows also where the database is restored from a backup. What that
    ledger counted may not have been written here: who ``insists`` gets a row to say it in.
    """
    database.lock(connection, f"ledger:{peer}")
    if insists:
        connection.execute(_KNOWN, {"peer": peer})
    connection.execute(_UNLOCK, {"peer": peer, "at": int(at)})
