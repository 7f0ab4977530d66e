"""An attempt to verify a peer, what is known about the peer, and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from pipelit_agents.database.fast_path import Flag, Open

__all__ = [
    "Account",
    "Attempt",
    "CodeKind",
    "Decision",
    "Guard",
    "KindOfAccount",
    "LaneKind",
    "PeerRow",
    "Proposal",
    "StoredSecrets",
    "Verdict",
    "account_at",
    "account_of",
    "is_person",
]

Verdict = Literal["accepted", "rejected", "limited", "locked"]
CodeKind = Literal["audience", "plain"]

# How the ledger's rows are named: "pair" is the lane of one verifier's audience codes, "plain" a
# verifier's own lane for plain codes. "family" is for the agents of the peer's root owner, "others"
# for everybody else. "nobody" is for who may verify nobody, so that it closes no other lane.
# "first" is for the first codes of a person's enrolments.
LaneKind = Literal["pair", "plain", "self", "family", "others", "nobody", "first"]


class KindOfAccount(Protocol):
    """A row with what tells a person from an agent, and from a peer of another domain."""

    @property
    def kind(self) -> str | None:
        """``human`` or ``agent``; None where there is no account."""

    @property
    def domain(self) -> str | None:
        """The other database's name; empty for an account of this one."""


class StoredSecrets(Protocol):
    """A row with an account's secrets."""

    @property
    def totp_secret(self) -> str | None:
        """Its encrypted secret."""

    @property
    def totp_previous(self) -> str | None:
        """The secret before the last rotation, encrypted."""

    @property
    def totp_previous_until(self) -> float | None:
        """Until when codes of that secret are good, Unix seconds."""

    @property
    def relation(self) -> str | None:
        """The peering, for a peer of another domain."""


class PeerRow(KindOfAccount, StoredSecrets, Protocol):
    """The peer's account as a ledger reads it, and whether the verifier's is active."""

    @property
    def verifier_active(self) -> Flag | None:
        """Whether the verifier may verify this peer."""

    @property
    def active(self) -> Flag | None:
        """Whether the peer's account is active."""


class Account(NamedTuple):
    """The encrypted secrets and the peering of a peer, by which its code is evaluated."""

    username: str
    secret: str | None
    previous: str | None
    relation: str = ""


class Attempt(NamedTuple):
    """One attempt of a verifier to verify a peer; the names are in their normal form.

    Attributes:
        verifier: The verifier's name.
        peer: The peer's name.
        kind: ``audience`` or ``plain``.
        matches: Takes the account (None if there is none) and a range of steps, and returns the
            steps in which the code is valid, in any order. Call it for each attempt that no limit
            ends, whatever else is known. Otherwise the time would reveal something.
        own: Whether the attempt is made by somebody who is authenticated as the peer. It counts for
            people only.
        first: Whether it spends a person's first code, after that code was found valid. Locks of
            other lanes don't apply to it.
        named: The account that the caller named, if another name is counted instead.
        unfit: Why no code of that account can be valid; for the audit.
        guard: For ``record_decision``, if the ledger isn't one of pipelit-agents.
    """

    verifier: str
    peer: str
    kind: CodeKind
    matches: Callable[[Account | None, range], Sequence[int]]
    own: bool = False
    named: str = ""
    unfit: str = ""
    first: bool = False
    guard: Guard | None = None


class Decision(NamedTuple):
    """The decision of a ledger. Only the audit has the true reason.

    Attributes:
        verdict: ``accepted`` or ``rejected``. Or the code wasn't evaluated, because of the limit
            for one minute (``limited``) or a lock (``locked``).
        at: The time by the ledger's clock, in Unix seconds.
        step: The time step of an accepted code; it can't be used again.
        retry_after: Seconds to wait if the code wasn't evaluated.
    """

    verdict: Verdict
    at: float
    step: int = 0
    retry_after: float | None = None


class Proposal(NamedTuple):
    """What a ledger of the user's own decided, before the database's ledger has agreed.

    Attributes:
        decision: The decision.
        reason: The true reason.
        locked: The lane that this failure locked for the first time.
    """

    decision: Decision
    reason: str
    locked: LaneKind | None = None


class Guard(Protocol):
    """Sees to it that a ledger of the user's own decides no more freely than the database's."""

    def settle(self, connection: Open, attempt: Attempt, proposal: Proposal) -> Decision:
        """Count, spend and audit in the database, and return the decision that counts."""

    def note(self, decision: Decision) -> None:
        """Keep a decision that a ledger of this package has written."""


def account_at(now: float, peer: str, row: StoredSecrets) -> Account | None:
    """Return what is needed of a peer whose row was read; None where it has no secret."""
    if row.totp_secret is None:
        return None
    previous = row.totp_previous if now < (row.totp_previous_until or 0.0) else None
    return Account(peer, row.totp_secret, previous, row.relation or "")


def account_of(attempt: Attempt, row: PeerRow, now: float) -> tuple[Account | None, str]:
    """Return the peer's account, and why no code of it is accepted; empty where one may be."""
    account = account_at(now, attempt.peer, row)
    if not row.verifier_active:
        return account, "verifier unknown or inactive"
    if account is None:
        return None, "peer unknown"
    if not row.active:
        return account, "peer inactive"
    if attempt.kind == "audience" and is_person(row):
        # Her authenticator app makes plain codes only.
        return account, "people have no audience codes"
    return account, ""


def is_person(row: KindOfAccount) -> bool:
    """Return whether a row is about a person of this database."""
    return bool(row.kind == "human" and row.domain == "")
