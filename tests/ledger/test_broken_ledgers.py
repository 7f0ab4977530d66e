"""The suite for ledgers finds each mistake, by the test that is named after what it breaks."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from test_ledger_suite import DictLedger, SpendingLedger, Store

from pipelit_agents.errors import PipelitError
from pipelit_agents.ledger import (
    Attempt,
    Decision,
    Facts,
    Lane,
    Ledger,
    LedgerContext,
    Peer,
    Ruling,
    Spent,
    State,
    read_facts,
)
from pipelit_agents.ledger.common import write_decision
from pipelit_agents.testing import LedgerParts, LedgerSuite, ledger_parts

BACKENDS = False


class CountsNot(DictLedger):
    """Forgets every failure."""

    def keep(self, *_: Any) -> None:
        pass


class SpendsTwice(SpendingLedger):
    """Forgets what was spent."""

    def spent(self, *_: Any) -> Spent:
        return Spent()


class AuditsNot(DictLedger):
    """Writes nothing to the audit."""

    def record(self, connection: Any, attempt: Attempt, decision: Decision, *_: Any) -> Any:
        return decision


class AuditsNoLock(DictLedger):
    """Doesn't say that a lane was locked for the first time."""

    def record(self, connection: Any, attempt: Attempt, decision: Any, reason: str, _: Any) -> Any:
        return super().record(connection, attempt, decision, reason, None)


class AuditsOneLock(DictLedger):
    """Says it of one kind of lane only."""

    def record(
        self, connection: Any, attempt: Attempt, decision: Any, reason: str, locked: Any
    ) -> Any:
        locked = "pair" if locked == "pair" else None
        return super().record(connection, attempt, decision, reason, locked)


class AuditIgnored(DictLedger):
    """Decides also where the audit can't be written."""

    def record(self, connection: Any, attempt: Attempt, decision: Any, *rest: Any) -> Any:
        with suppress(PipelitError):
            return super().record(connection, attempt, decision, *rest)
        return decision


class ForgetsAtRestart(SpendingLedger):
    """Counts in the memory of its process."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        super().__init__(context, Store())


class IgnoresUnlocks(DictLedger):
    """Keeps a lane locked that was unlocked."""

    def unlocked(self, lane: Lane, facts: Facts) -> Lane:
        return lane


class UnlockGivesYearBack(DictLedger):
    """Forgets at an unlock how many wrong guesses the year has had."""

    def unlocked(self, lane: Lane, facts: Facts) -> Lane:
        return Lane()


class NoYearlyAllowance(DictLedger):
    """Lets right codes forgive any number of wrong ones."""

    def keep(self, attempt: Attempt, facts: Facts, key: Any, state: State, ruling: Ruling) -> None:
        state = state._replace(lane=state.lane._replace(whole_at=0.0))
        super().keep(attempt, facts, key, state, ruling)


class WrongClass(DictLedger):
    """Allows as many wrong plain codes a year as audience codes."""

    def peer(self, facts: Facts) -> Peer:
        return facts.peer._replace(lanes="audience")


class ForeverAfter13(DictLedger):
    """Never opens again after the thirteenth failure in a row."""

    def keep(self, attempt: Attempt, facts: Facts, key: Any, state: State, ruling: Ruling) -> None:
        if state.lane.in_a_row >= 13:
            state = state._replace(lane=state.lane._replace(locked_until=1e15))
        super().keep(attempt, facts, key, state, ruling)


class IgnoresSecrets(SpendingLedger):
    """Takes what was spent of the secret before for spent of the new one."""

    def rotated(self, spent: Spent) -> Spent:
        return spent


class ForgetsPrevious(SpendingLedger):
    """Forgets what was spent of the secret before, whose codes are good for a while."""

    def rotated(self, spent: Spent) -> Spent:
        return Spent()


class ForgetsSoon(SpendingLedger):
    """Forgets after 45 seconds what was spent."""

    def spent(self, attempt: Attempt, facts: Facts) -> Spent:
        key = "seen", self.spent_key(attempt, facts)
        seen = self.store.lanes.get(key, facts.now)
        self.store.lanes[key] = facts.now
        return super().spent(attempt, facts) if facts.now - seen <= 45 else Spent()


class ForgetsAtRefusal(SpendingLedger):
    """Forgets what was spent when it refuses a code."""

    def keep(self, attempt: Attempt, facts: Facts, key: Any, state: State, ruling: Ruling) -> None:
        if ruling.verdict == "rejected":
            state = state._replace(spent=Spent())
        super().keep(attempt, facts, key, state, ruling)


class PlainPerLane(SpendingLedger):
    """Spends a plain code for the verifiers of one lane."""

    def spent_key(self, attempt: Attempt, facts: Facts) -> Any:
        return (*super().spent_key(attempt, facts), *facts.lane)


class SpentAheadForever(SpendingLedger):
    """Doesn't notice that an unlock has set back what was spent while the clock was ahead."""


class OneLane(DictLedger):
    """Counts all verifiers together."""

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        return facts.database_id, attempt.peer


class OneLaneForBothKinds(DictLedger):
    """Counts a verifier's plain codes with its audience codes."""

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        return facts.database_id, attempt.peer, attempt.verifier


class LanePerVerifier(DictLedger):
    """Gives each verifier guesses of its own."""

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        return facts.database_id, attempt.peer, attempt.kind, attempt.verifier


class _Renamed(DictLedger):
    names: dict[str, str]

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        kind, subject = facts.lane
        if kind in self.names:
            kind, subject = self.names[kind], ""  # type: ignore[assignment]
        return facts.database_id, attempt.peer, kind, subject


class SelfInOthers(_Renamed):
    """Counts a person's own wrong codes with those of strangers."""

    names = {"self": "others", "first": "others"}


class NobodyInOthers(_Renamed):
    """Lets the guesses of who may verify nobody close the lane of others."""

    names = {"nobody": "others"}


class InactiveVerifierAccepted(DictLedger):
    """Takes no notice of a verifier that was deactivated."""

    def peer(self, facts: Facts) -> Peer:
        is_verifier = facts.peer.unfit.startswith("verifier")
        return facts.peer._replace(unfit="" if is_verifier else facts.peer.unfit)


class OneStoreOneDatabase(DictLedger):
    """Counts two databases together."""

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        return (attempt.peer, *facts.lane)


class NonAtomic(DictLedger):
    """Reads and decides without a lock, and writes later."""

    def decide(self, attempt: Attempt) -> Decision:
        with self.database.deciding() as connection:
            facts = read_facts(self.database, connection, attempt, self.clock)
        decided = self.decided(attempt, facts)
        with self.database.deciding() as connection:
            return self.record(connection, attempt, *decided)  # type: ignore[no-any-return]


class PerObjectLock(NonAtomic):
    """Is atomic among the threads of one process only."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        super().__init__(context, store)
        self.lock = threading.RLock()

    def decide(self, attempt: Attempt) -> Decision:
        with self.lock:
            return super().decide(attempt)


class NeverReleases(DictLedger):
    """Keeps its mutex after a refusal."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        super().__init__(context, store)
        self.mine = threading.Lock()

    def decide(self, attempt: Attempt) -> Decision:
        self.mine.acquire()
        decision = super().decide(attempt)
        if decision.verdict == "accepted":
            self.mine.release()
        return decision


class ReturnsItsOwn(DictLedger):
    """Returns something else than it has recorded."""

    def record(self, connection: Any, attempt: Attempt, decision: Any, *rest: Any) -> Any:
        super().record(connection, attempt, decision, *rest)
        return decision._replace(verdict="rejected")


class RefusesUncounted(DictLedger):
    """Writes a refusal to the audit, and counts no failure in the database."""

    def record(
        self, connection: Any, attempt: Attempt, decision: Any, reason: str, locked: Any
    ) -> Any:
        if decision.verdict == "accepted":
            return super().record(connection, attempt, decision, reason, locked)
        write_decision(connection, attempt, decision, reason, locked=locked)
        return decision


YEARLY = {"verifier": "agent_verifier", "peer": "agent_peer", "plain": True}
BROKEN: dict[type[DictLedger], tuple[str, dict[str, Any]]] = {
    CountsNot: ("test_every_wrong_code_is_counted_and_audited", {}),
    SpendsTwice: ("test_a_code_is_accepted_once", {"plain": False}),
    AuditsNot: ("test_a_right_code_is_accepted", {}),
    AuditsNoLock: ("test_a_lane_is_locked_after_failures_in_a_row", {}),
    AuditsOneLock: ("test_a_first_lock_is_audited_in_each_lane", {}),
    AuditIgnored: ("test_what_can_not_be_written_is_not_accepted", {}),
    ForgetsAtRestart: ("test_a_spent_code_stays_spent_after_a_restart", {}),
    IgnoresUnlocks: ("test_an_unlock_ends_the_lock", {}),
    UnlockGivesYearBack: ("test_right_codes_forgive_only_so_many_guesses_a_year", YEARLY),
    NoYearlyAllowance: ("test_right_codes_forgive_only_so_many_guesses_a_year", YEARLY),
    WrongClass: ("test_right_codes_forgive_only_so_many_guesses_a_year", YEARLY),
    ForeverAfter13: ("test_locks_grow_up_to_the_longest", {}),
    IgnoresSecrets: ("test_a_new_secret_is_unspent", {}),
    ForgetsPrevious: ("test_what_was_spent_stays_spent_in_an_overlap", {}),
    ForgetsSoon: ("test_a_code_stays_spent_while_it_is_good", {"plain": False}),
    ForgetsAtRefusal: ("test_a_code_is_accepted_once", {"plain": False}),
    PlainPerLane: ("test_a_plain_code_is_spent_for_every_verifier", {}),
    SpentAheadForever: ("test_an_unlock_repairs_what_was_spent_ahead", {}),
    OneLane: ("test_a_lock_holds_nobody_else", {}),
    OneLaneForBothKinds: ("test_a_lock_holds_nobody_else", {}),
    LanePerVerifier: ("test_verifiers_of_plain_codes_share_their_guesses", {}),
    SelfInOthers: ("test_a_persons_own_lane_is_not_that_of_strangers", {}),
    NobodyInOthers: ("test_a_deactivated_verifier_is_refused", {}),
    InactiveVerifierAccepted: ("test_a_deactivated_verifier_is_refused", {}),
    OneStoreOneDatabase: ("test_two_databases_are_counted_apart", {}),
    NonAtomic: ("test_an_attempt_in_the_middle_of_another", {"plain": True}),
    PerObjectLock: ("test_an_attempt_in_the_middle_of_another", {"plain": False}),
    NeverReleases: ("test_a_code_is_accepted_once", {"plain": False}),
    ReturnsItsOwn: ("test_a_right_code_is_accepted", {}),
    RefusesUncounted: ("test_the_database_knows_what_is_spent_and_locked", {}),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_parts, "PATIENCE", 1.5)


@pytest.mark.parametrize("ledger", BROKEN, ids=lambda each: each.__name__)
def test_a_broken_ledger_fails(ledger: type[DictLedger], tmp_path: Path) -> None:
    """And what fails is the comparison or the assertion, which say what is wrong."""
    store = Store()

    class Suite(LedgerSuite):
        def make_ledger(self, context: LedgerContext) -> Ledger:
            return ledger(context, store)

    name, arguments = BROKEN[ledger]
    if name == "test_two_databases_are_counted_apart":
        arguments = {"tmp_path": tmp_path}
    suite = Suite()
    with (
        LedgerParts(suite, f"sqlite:///{tmp_path}/broken/agents.db") as parts,
        pytest.raises((AssertionError, pytest.fail.Exception)),
    ):
        getattr(suite, name)(parts, **arguments)
