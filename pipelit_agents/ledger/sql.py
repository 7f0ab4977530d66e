"""The ledger in the SQL database: one transaction reads, decides, charges, spends and audits.

The write lock is taken first, and the upsert applies only to the versions that were read, so that
of two attempts at once the second sees what the first left behind. Each refusal runs the same
statements; what the caller may not learn, the clock doesn't tell either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pipelit_agents.database.engine import Database
from pipelit_agents.database.statement import Statement
from pipelit_agents.errors import LedgerUnavailable, StorageError
from pipelit_agents.ledger.base import (
    Attempt,
    CodeKind,
    Decision,
    account_of,
    last_forgotten,
    lock_attempt,
    record_decision,
    window_of,
)
from pipelit_agents.policy import VerificationPolicy

__all__ = ["SqlLedger"]

_RETRIES: Final = 50

_LEDGER_COLUMNS: Final = ("version", "in_a_row", "recent", "locked_until", "spent_step")
_SCOPES: Final = {
    "lp": ("peer", "''"),
    "lv": ("pair", ":verifier"),
    "lo": ("owner", ":root_owner"),
}
_READ: Final = (
    # A person verifies nobody but herself: no handle acts as one.
    "SELECT {now} AS now, (v.active AND v.domain = '' AND (v.kind = 'agent' OR "
    "v.username = p.username)) AS verifier_active, v.root_owner, p.active, "
    "p.totp_secret, p.totp_previous, p.totp_previous_until, p.relation, e.boot_id, e.changed_at, "
    # Last, as they are read by their place.
    + ", ".join(f"{t}.{c} AS {t}_{c}" for t in _SCOPES for c in _LEDGER_COLUMNS)
    + """
    FROM (SELECT 1 AS one) AS base
    LEFT JOIN pipelit_users v ON v.username = :verifier
    LEFT JOIN pipelit_users p ON p.username = :peer
    LEFT JOIN pipelit_epoch e ON e.id = 1
    LEFT JOIN pipelit_ledger lp ON lp.peer = :peer AND lp.scope = 'peer' AND lp.subject = ''
    LEFT JOIN pipelit_ledger lv
        ON lv.peer = :peer AND lv.scope = 'pair' AND lv.subject = :verifier
    LEFT JOIN pipelit_ledger lo
        ON lo.peer = :peer AND lo.scope = 'owner' AND lo.subject = COALESCE(v.root_owner, '')
    """
)


@cache
def _writing(*tables: str) -> Statement:
    rows = ", ".join(
        f"(:peer, '{scope}', {subject}, " + ", ".join(f":{t}_{c}" for c in _LEDGER_COLUMNS) + ")"
        for t, (scope, subject) in _SCOPES.items()
        if t in tables
    )
    return Statement(
        "INSERT INTO pipelit_ledger "
        "(peer, scope, subject, version, in_a_row, recent, locked_until, spent_step) "
        f"VALUES {rows} ON CONFLICT (peer, scope, subject) DO UPDATE SET "
        + ", ".join(f"{c} = excluded.{c}" for c in _LEDGER_COLUMNS)
        + " WHERE pipelit_ledger.version = excluded.version - 1"
    )


@cache
def _reading(now: str) -> Statement:
    return Statement(_READ.format(now=now))


@dataclass(slots=True)
class _Row:
    # In the order of the columns.
    version: int = 0
    in_a_row: int = 0
    recent: str = ""
    locked_until: float = 0.0
    spent_step: int = -1

    @classmethod
    def of(cls, values: Sequence[Any]) -> _Row:
        return cls() if values[0] is None else cls(*values)

    def failures_since(self, moment: float) -> list[float]:
        return [at for at in map(float, self.recent.split()) if at > moment]

    @property
    def counts(self) -> bool:
        return bool(self.in_a_row or self.recent)

    def written(self, table: str) -> dict[str, Any]:
        return {
            f"{table}_version": self.version + 1,
            f"{table}_in_a_row": self.in_a_row,
            f"{table}_recent": self.recent,
            f"{table}_locked_until": self.locked_until,
            f"{table}_spent_step": self.spent_step,
        }


class SqlLedger:
    """Counts attempts and spends codes in the SQL database.

    Args:
        database: Where the tables are.
        policy: The limits.
        clock: The ledger's clock, Unix seconds; None for the server's, or the machine's where the
            database is a file on it.
        epoch: Names the life of the machine; where it changed, commits may have been lost. By
            default the database's own.
    """

    def __init__(
        self,
        database: Database,
        policy: VerificationPolicy,
        clock: Callable[[], float] | None = None,
        epoch: Callable[[], str] | None = None,
    ) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._epoch = epoch or database.epoch

    def decide(self, attempt: Attempt) -> Decision:
        """Decides one attempt in a transaction of its own, durable when this returns.

        Raises:
            LedgerUnavailable: The database can't be reached or refuses; nothing is accepted.
            UnsealError: The peer's secret doesn't open under this keyring.
        """
        try:
            for _ in range(_RETRIES):
                decision = self._decide_once(attempt)
                if decision is not None:
                    return decision
        except LedgerUnavailable:
            raise
        except StorageError as error:
            raise LedgerUnavailable(
                f"nothing is accepted while attempts can't be counted: {error}",
                peer=attempt.peer,
                verifier=attempt.verifier,
            ) from error
        raise LedgerUnavailable(
            f"nothing is accepted: {_RETRIES} attempts in a row were overtaken by others",
            peer=attempt.peer,
            verifier=attempt.verifier,
        )

    def check(self) -> str:
        """Says where it counts; whoever uses the database finds out whether that can be reached."""
        return "the database"

    def close(self) -> None:
        """Does nothing: the connections are the database's."""

    def _decide_once(self, attempt: Attempt) -> Decision | None:
        with self._database.deciding() as connection:
            names = {"verifier": attempt.verifier, "peer": attempt.peer}
            lock_attempt(self._database, connection, attempt)
            (row,) = _reading(self._database.server_clock).fetch(connection, names)
            now = self._now(row.now)
            forgotten = last_forgotten(connection, row, self._epoch(), now, self._policy.window)
            state = _State(_Row.of(row[-15:-10]), _Row.of(row[-10:-5]), _Row.of(row[-5:]))
            decision, reason = self._limits(state, now)
            if decision is None:
                decision, reason = self._evaluate(attempt, row, state, now, forgotten)
            written = _writing(*state.tables).write(
                connection, {**names, "root_owner": row.root_owner or "", **state.written()}
            )
            if written != len(state.tables):
                connection.rollback()
                return None
            record_decision(connection, attempt, decision, reason)
        return decision

    def _now(self, of_the_server: float | None) -> float:
        if self._clock is not None:
            # As fine as other ledgers write it down.
            return round(self._clock(), 6)
        return time.time() if of_the_server is None else of_the_server

    def _limits(self, state: _State, now: float) -> tuple[Decision | None, str]:
        policy = self._policy
        if state.peer.in_a_row >= policy.switch_off_after:
            return Decision("locked", now), "short codes switched off"
        for row, reason in ((state.pair, "pair locked"), (state.owner, "owner locked")):
            if row.locked_until > now:
                return Decision("locked", now, retry_after=row.locked_until - now), reason
        recent = state.pair.failures_since(now - 60)
        if len(recent) >= policy.failures_per_minute:
            wait = recent[-policy.failures_per_minute] + 60 - now
            return Decision("limited", now, retry_after=wait), "rate limited"
        return None, ""

    def _evaluate(
        self, attempt: Attempt, row: Any, state: _State, now: float, forgotten: int
    ) -> tuple[Decision, str]:
        account, reason = account_of(attempt.peer, row, now)
        steps = attempt.matches(account, window_of(now, self._policy.window))
        spent = state.peer if attempt.kind == "plain" else state.pair
        if reason:
            pass
        elif not steps:
            reason = "wrong code"
        elif max(steps) <= spent.spent_step:
            reason = "replay"
        elif max(steps) <= forgotten:
            reason = "step from before a restart"
        if reason:
            state.fail(now, self._policy)
            return Decision("rejected", now), reason
        state.succeed(attempt.kind, max(steps))
        return Decision("accepted", now, step=max(steps)), ""


@dataclass(slots=True)
class _State:
    peer: _Row
    pair: _Row
    owner: _Row
    # Which are written: all of them, whatever is refused and why.
    tables: tuple[str, ...] = tuple(_SCOPES)

    def fail(self, now: float, policy: VerificationPolicy) -> None:
        peer, pair, owner = self.peer, self.pair, self.owner
        pair.recent = " ".join(map(repr, [*pair.failures_since(now - 60), now]))
        for row in (peer, pair, owner):
            row.in_a_row += 1
        until = now + policy.lock_seconds
        if pair.in_a_row >= policy.lock_after:
            pair.in_a_row, pair.recent, pair.locked_until = 0, "", until
        if owner.in_a_row >= policy.owner_lock_after:
            owner.in_a_row, owner.locked_until = 0, until

    def succeed(self, kind: CodeKind, step: int) -> None:
        peer, pair, owner = self.peer, self.pair, self.owner
        spender, other = (peer, pair) if kind == "plain" else (pair, peer)
        if not (other.counts or owner.counts):
            self.tables = ("lp",) if kind == "plain" else ("lv",)
        peer.in_a_row = pair.in_a_row = owner.in_a_row = 0
        pair.recent = ""
        spender.spent_step = step

    def written(self) -> dict[str, Any]:
        rows = {"lp": self.peer, "lv": self.pair, "lo": self.owner}
        found: dict[str, Any] = {}
        for table in self.tables:
            found |= rows[table].written(table)
        return found
