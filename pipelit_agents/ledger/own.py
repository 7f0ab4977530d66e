"""A ledger of the user's own, under the guard of the database's.

Other processes on the database may count in another ledger: every CLI command uses the one of the
settings. So what is spent and what is locked is kept in the database whichever ledger counts, in
the transaction that writes the audit entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final, NamedTuple, get_args

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Open, Query
from pipelit_agents.errors import LedgerUnavailable
from pipelit_agents.ledger.attempts import Account, Attempt, Decision, Proposal, Verdict
from pipelit_agents.ledger.common import Ledger
from pipelit_agents.ledger.machine import Forgotten
from pipelit_agents.ledger.rules import Ruling
from pipelit_agents.ledger.sql import SqlLedger

__all__ = ["GuardedLedger", "Watch"]


class _Spent(NamedTuple):
    step: int
    previous: int


_SPENT: Final = Query(
    "SELECT spent_step AS step, spent_previous AS previous FROM pipelit_ledger "
    "WHERE peer = :peer AND scope = :scope AND subject = :subject",
    _Spent,
)


class GuardedLedger:
    """A ledger of the user's own that can only be stricter than the database's.

    Args:
        ledger: The ledger.
        database: The database.
        counted: Counts in the database.
    """

    def __init__(self, ledger: Ledger, database: Database, counted: SqlLedger) -> None:
        self.ledger: Final = ledger
        self._database = database
        self._counted = counted

    def decide(self, attempt: Attempt) -> Decision:
        """Let the ledger decide, and return the decision that is in the audit.

        Raises:
            LedgerUnavailable: The ledger's decision is none, or isn't in the database.
        """
        watch = Watch(attempt, self._counted)
        returned = self.ledger.decide(attempt._replace(matches=watch.matches, guard=watch))
        verdict = getattr(returned, "verdict", returned)
        if verdict not in get_args(Verdict):
            raise _refused(attempt, f"the ledger returned {_must_be_a_verdict(verdict)}")
        watch.forgotten.require_one_kernel(attempt)
        settled = watch.settled
        if settled is None:
            raise _refused(
                attempt,
                "the ledger returned a decision that it hasn't written: it must call "
                "record_decision in its transaction, and return what that returns",
            )
        if settled.verdict == "accepted":
            if verdict != "accepted":
                return returned
            self._require_spent(attempt, settled.step)
        return settled

    def check(self) -> str:
        """Return where the ledger counts."""
        return self.ledger.check()

    def close(self) -> None:
        """Close the ledger's connections."""
        self.ledger.close()

    def _require_spent(self, attempt: Attempt, step: int) -> None:
        scope, subject = ("peer", "") if attempt.kind == "plain" else ("pair", attempt.verifier)
        names = {"peer": attempt.peer, "scope": scope, "subject": subject}
        rows = self._database.fetch(_SPENT, names)
        if not any(step <= max(row) for row in rows):
            raise _refused(
                attempt,
                "the ledger accepted a code in a transaction that it hasn't committed: it must "
                "call record_decision in a transaction of Database.deciding, which ends before "
                "decide returns",
            )


class Watch:
    """What a ledger of the user's own does about one attempt.

    Args:
        attempt: The attempt.
        counted: Counts in the database.

    Attributes:
        proposal: What the ledger decided; None where it has recorded nothing, or uses a ledger of
            this package.
        alone: What the database's ledger would have decided alone; None if it would have evaluated
            a code that the ledger didn't.
        settled: The decision that is in the audit.
        forgotten: What the database may have forgotten.
    """

    def __init__(self, attempt: Attempt, counted: SqlLedger) -> None:
        self._compare = attempt.matches
        self._counted = counted
        self._compared: dict[tuple[Account | None, range], Sequence[int]] = {}
        self.proposal: Proposal | None = None
        self.alone: Ruling | None = None
        self.settled: Decision | None = None
        self.forgotten: Forgotten = Forgotten(-1)

    def matches(self, account: Account | None, steps: range) -> Sequence[int]:
        """Compare the code, each step once: the database's ledger asks the same again."""
        asked = account, steps
        if asked not in self._compared:
            self._compared[asked] = tuple(self._compare(account, steps))
        return self._compared[asked]

    def settle(self, connection: Open, attempt: Attempt, proposal: Proposal) -> Decision:
        """Count, spend and audit in the database, and return the decision that counts.

        Raises:
            LedgerUnavailable: The decision is none, or another attempt about the peer was decided
                in the middle of this one.
        """
        verdict, at = proposal.decision.verdict, proposal.decision.at
        if verdict not in get_args(Verdict):
            raise _refused(attempt, f"the ledger recorded {_must_be_a_verdict(verdict)}")
        if type(at) not in (int, float) or not isfinite(at):
            raise _refused(attempt, f"Decision.at must be Unix seconds, not {at!r:.40}")
        # The ledger may have wrapped it; what the database's compares is the code itself.
        compared = attempt._replace(matches=self.matches)
        written = self._counted.settle(connection, compared, proposal)
        self.proposal, self.alone, self.forgotten = proposal, written.alone, written.forgotten
        return written.decision

    def note(self, decision: Decision) -> None:
        """Keep a decision that was written to the audit."""
        self.settled = decision


def _must_be_a_verdict(verdict: object) -> str:
    return f"the verdict {verdict!r:.40}, which must be one of {', '.join(get_args(Verdict))}"


def _refused(attempt: Attempt, why: str) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"nothing is accepted: {why}", peer=attempt.peer, verifier=attempt.verifier
    )
