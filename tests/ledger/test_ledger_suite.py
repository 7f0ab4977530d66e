"""The suite for ledgers: ours pass it, and so does a third one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelit_agents.errors import LedgerUnavailable
from pipelit_agents.ledger import (
    Attempt,
    Decision,
    Facts,
    Lane,
    Ledger,
    LedgerContext,
    Peer,
    RedisLedger,
    Rules,
    Ruling,
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


class Ours(LedgerSuite):
    """What a ledger of this package does beyond the suite."""

    def test_a_full_disk_is_a_ledger_that_is_unavailable(self, ledger_parts: LedgerParts) -> None:
        """The error has the names of the attempt, and callers need to catch one class only."""
        ledger_parts.watch.fails = True
        with pytest.raises(LedgerUnavailable, match="the disk is full") as caught:
            ledger_parts.verify()
        assert (caught.value.verifier, caught.value.peer) == ("agent_verifier", "agent_peer")


class TestSqlite(Ours):
    def make_ledger(self, context: LedgerContext) -> Ledger:
        return SqlLedger(context.database, context.policy, context.clock)


class TestPostgres(TestSqlite):
    @pytest.fixture
    def ledger_database_url(self, migrated_url: str) -> str:
        return migrated_url


class TestRedis(Ours):
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
    """A ledger that counts in a dict; the accounts, the audit and what is spent are in SQL."""

    def __init__(self, context: LedgerContext, store: Store) -> None:
        self.database, self.clock = context.database, context.clock
        self.rules, self.store, self.lock = Rules(context.policy), store, store.lock

    def decide(self, attempt: Attempt) -> Decision:
        with self.lock, self.database.deciding() as connection:
            lock_attempt(self.database, connection, attempt)
            facts = read_facts(self.database, connection, attempt, self.clock)
            decided = self.decided(attempt, facts)
            return self.record(connection, attempt, *decided)

    def decided(self, attempt: Attempt, facts: Facts) -> tuple[Decision, str, Any]:
        key = self.lane_key(attempt, facts)
        # What a new database doesn't know of, nobody has counted.
        unlocks, lane = self.store.lanes.get(key, (facts.unlocks, Lane()))
        if unlocks < facts.unlocks:
            lane = self.unlocked(lane, facts)
        before = State(lane, self.spent(attempt, facts), facts.ahead)
        state, ruling = decide(before, attempt, self.peer(facts), self.rules, facts.now)
        self.keep(attempt, facts, key, state, ruling)
        decision = Decision(ruling.verdict, facts.now, ruling.step, ruling.retry_after)
        return decision, ruling.reason, facts.lane[0] if ruling.first_lock else None

    def lane_key(self, attempt: Attempt, facts: Facts) -> Any:
        return (facts.database_id, attempt.peer, *facts.lane)

    def unlocked(self, lane: Lane, facts: Facts) -> Lane:
        return self.rules.unlocked(lane, facts.now, facts.peer.lanes)

    def spent(self, attempt: Attempt, facts: Facts) -> Spent:
        return facts.spent

    def peer(self, facts: Facts) -> Peer:
        return facts.peer

    def keep(self, attempt: Attempt, facts: Facts, key: Any, state: State, ruling: Ruling) -> None:
        self.store.lanes[key] = facts.unlocks, state.lane

    def record(
        self, connection: Any, attempt: Attempt, decision: Decision, reason: str, locked: Any
    ) -> Any:
        return record_decision(connection, attempt, decision, reason, locked=locked)

    def check(self) -> str:
        return "a dict"

    def close(self) -> None:
        pass


class SpendingLedger(DictLedger):
    """Keeps in the dict what is spent, too."""

    def spent_key(self, attempt: Attempt, facts: Facts) -> Any:
        spender = attempt.verifier if attempt.kind == "audience" else ""
        return facts.database_id, attempt.peer, spender

    def spent(self, attempt: Attempt, facts: Facts) -> Spent:
        key = self.spent_key(attempt, facts)
        generation, spent = self.store.spent.get(key, (facts.generation, Spent()))
        return self.rotated(spent) if generation < facts.generation else spent

    def rotated(self, spent: Spent) -> Spent:
        return Spent(previous=spent.step)

    def keep(self, attempt: Attempt, facts: Facts, key: Any, state: State, ruling: Ruling) -> None:
        super().keep(attempt, facts, key, state, ruling)
        self.store.spent[self.spent_key(attempt, facts)] = facts.generation, state.spent


@pytest.mark.slow
@pytest.mark.all_cases
class TestThird(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.store = Store()

    def make_ledger(self, context: LedgerContext) -> Ledger:
        return DictLedger(context, self.store)


def test_a_suite_without_a_ledger_says_what_is_missing(tmp_path: Path) -> None:
    """The message names the method to write."""
    with (
        pytest.raises(NotImplementedError, match=r"make_ledger\(self, context\)"),
        LedgerParts(LedgerSuite(), f"sqlite:///{tmp_path}/none/agents.db") as parts,
    ):
        parts.verify()
