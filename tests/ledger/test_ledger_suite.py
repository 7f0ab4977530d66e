"""The suite for ledgers: ours pass it, a third one does, and broken ones don't."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelit_agents.errors import VerificationError
from pipelit_agents.ledger import (
    Attempt,
    Decision,
    Ledger,
    LedgerContext,
    RedisLedger,
    Rules,
    Spent,
    SqlLedger,
    State,
    decide,
    lock_attempt,
    read_facts,
    record_decision,
)
from pipelit_agents.testing import LedgerParts, LedgerSuite

BACKENDS = False


class TestSqlite(LedgerSuite):
    def make_ledger(self, context: LedgerContext) -> Ledger:
        return SqlLedger(context.database, context.policy, context.clock)


class TestPostgres(TestSqlite):
    @pytest.fixture
    def ledger_database_url(self, postgres_url: str) -> str:
        return postgres_url


class TestRedis(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: Any) -> None:
        self.url = redis_server.url

    def make_ledger(self, context: LedgerContext) -> Ledger:
        return RedisLedger(context.database, context.policy, self.url, context.clock)


@dataclass
class Store:
    """Stands for a server that several processes count in."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    lanes: dict[Any, Any] = field(default_factory=dict)
    spent: dict[Any, Any] = field(default_factory=dict)


class DictLedger:
    """A ledger that counts in a dict; the accounts and the audit are in SQL."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        self.database, self.clock = context.database, context.clock
        self.rules, self.store = Rules(context.policy), store

    def decide(self, attempt: Attempt) -> Decision:
        with self.store.lock, self.database.deciding() as connection:
            lock_attempt(self.database, connection, attempt)
            facts = read_facts(self.database, connection, attempt, self.clock)
            lane_key = (attempt.peer, *facts.lane)
            spent_key = (attempt.peer, attempt.verifier if attempt.kind == "audience" else "")
            # What a new database doesn't know of, nobody has counted.
            unlocks, lane = self.store.lanes.get(lane_key, (facts.unlocks, State().lane))
            if unlocks < facts.unlocks:
                lane = self.rules.unlocked(lane, facts.now, facts.peer.lanes)
            generation, spent = self.store.spent.get(spent_key, (facts.generation, Spent()))
            if generation < facts.generation:
                spent = Spent(previous=spent.step)
            state, ruling = decide(State(lane, spent), attempt, facts.peer, self.rules, facts.now)
            self.store.lanes[lane_key] = facts.unlocks, state.lane
            self.store.spent[spent_key] = facts.generation, state.spent
            decision = Decision(ruling.verdict, facts.now, ruling.step, ruling.retry_after)
            locked = facts.lane[0] if ruling.first_lock else None
            self.record(connection, attempt, decision, ruling.reason, locked)
        return decision

    def record(
        self, connection: Any, attempt: Attempt, decision: Decision, reason: str, locked: Any
    ) -> None:
        record_decision(connection, attempt, decision, reason, locked=locked)

    def check(self) -> str:
        return "a dict"

    def close(self) -> None:
        pass


class TestThird(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = Store()

    def make_ledger(self, context: LedgerContext) -> Ledger:
        return DictLedger(context, self.store)


class CountsNot(DictLedger):
    """Forgets every failure."""

    def decide(self, attempt: Attempt) -> Decision:
        self.store.lanes.clear()
        return super().decide(attempt)


class SpendsTwice(DictLedger):
    """Forgets what was spent."""

    def decide(self, attempt: Attempt) -> Decision:
        self.store.spent.clear()
        return super().decide(attempt)


class AuditsNot(DictLedger):
    """Writes nothing to the audit."""

    def record(self, *_: Any) -> None:
        pass


class AuditsNoLock(DictLedger):
    """Doesn't say that a lane was locked for the first time."""

    def record(self, connection: Any, attempt: Attempt, decision: Any, reason: str, _: Any) -> None:
        super().record(connection, attempt, decision, reason, None)


class ForgetsAtRestart(DictLedger):
    """Counts in the memory of its process."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        super().__init__(context, Store())


class IgnoresUnlocks(DictLedger):
    """Keeps a lane locked that was unlocked."""

    def decide(self, attempt: Attempt) -> Decision:
        for key, (_, lane) in self.store.lanes.items():
            self.store.lanes[key] = 2**62, lane
        return super().decide(attempt)


class IgnoresSecrets(DictLedger):
    """Takes what was spent of the secret before for spent of the new one."""

    def decide(self, attempt: Attempt) -> Decision:
        for key, (_, spent) in self.store.spent.items():
            self.store.spent[key] = 2**62, spent
        return super().decide(attempt)


class OneLane(DictLedger):
    """Counts all verifiers together."""

    def decide(self, attempt: Attempt) -> Decision:
        with self.store.lock:
            lanes = self.store.lanes
            most = max(lanes.values(), key=lambda each: each[1].in_a_row, default=None)
            if most is not None:
                name = attempt.verifier
                lanes[attempt.peer, "pair", name] = most
            return super().decide(attempt)


class Racing(DictLedger):
    """Reads what was spent, and decides later."""

    def decide(self, attempt: Attempt) -> Decision:
        before, lanes = dict(self.store.spent), dict(self.store.lanes)
        RACE.wait(0.2)
        with self.store.lock:
            self.store.spent, self.store.lanes = before, lanes
            return super().decide(attempt)


RACE = threading.Event()

BROKEN = {
    CountsNot: "test_every_wrong_code_is_counted_and_audited",
    SpendsTwice: "test_a_code_is_accepted_once",
    AuditsNot: "test_a_right_code_is_accepted",
    AuditsNoLock: "test_a_lane_is_locked_after_failures_in_a_row",
    ForgetsAtRestart: "test_a_spent_code_stays_spent_after_a_restart",
    IgnoresUnlocks: "test_an_unlock_ends_the_lock",
    IgnoresSecrets: "test_a_new_secret_is_unspent",
    OneLane: "test_a_lock_holds_nobody_else",
    Racing: "test_of_threads_with_one_code_one_is_accepted",
}


@pytest.mark.parametrize("ledger", BROKEN, ids=lambda each: each.__name__)
def test_a_broken_ledger_fails(ledger: type[DictLedger], tmp_path: Path) -> None:
    """Each mistake is found by the test that is named after what it breaks."""
    store = Store()

    class Suite(LedgerSuite):
        def make_ledger(self, context: LedgerContext) -> Ledger:
            return ledger(context, store)

    name, suite = BROKEN[ledger], Suite()
    arguments = {"plain": False} if name == "test_a_code_is_accepted_once" else {}
    url = f"sqlite:///{tmp_path}/broken/agents.db"
    failures = (AssertionError, pytest.fail.Exception, VerificationError)
    with LedgerParts(suite, url) as parts, pytest.raises(failures):
        getattr(suite, name)(parts, **arguments)


def test_a_suite_without_a_ledger_says_what_is_missing(tmp_path: Path) -> None:
    """The message names the method to write."""
    with (
        pytest.raises(NotImplementedError, match=r"make_ledger\(self, context\)"),
        LedgerParts(LedgerSuite(), f"sqlite:///{tmp_path}/none/agents.db") as parts,
    ):
        parts.verify()
