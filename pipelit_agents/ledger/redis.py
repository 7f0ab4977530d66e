"""The ledger in Redis: one script decides, and SQL keeps what Redis may lose.

Redis counts attempts and spends codes for many processes at once, without their waiting for each
other in the database. What must outlive an eviction, a flush or a failover stands in SQL as well:
the failures in a row about a peer, and each step that was spent, which is written with the audit
row before anybody hears of it. So a Redis that forgot can't make a spent code good again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from secrets import token_hex
from typing import Any, Final, cast

from pipelit_agents.database.engine import Database
from pipelit_agents.database.statement import Open, Statement
from pipelit_agents.errors import LedgerUnavailable, StorageError
from pipelit_agents.forks import begin_anew_in_children
from pipelit_agents.ledger.address import (
    RedisUnusable,
    connect,
    masked_address,
    named_errors,
    report_eviction,
)
from pipelit_agents.ledger.base import (
    Attempt,
    Decision,
    Verdict,
    account_of,
    last_forgotten,
    lock_attempt,
    record_decision,
    window_of,
)
from pipelit_agents.policy import VerificationPolicy
from pipelit_agents.proof import PERIOD

__all__ = ["RedisLedger"]

# Beyond the longest lock, from what was counted last; a guesser who pauses a day has gained a
# handful of guesses.
_KEEP: Final = 86_400
_TRIES: Final = 3

_READ: Final = Statement(
    """
    SELECT (v.active AND v.domain = '') AS verifier_active, v.root_owner, p.active,
        p.totp_secret, p.totp_previous, p.totp_previous_until, p.relation, e.database_id,
        e.boot_id, e.changed_at,
        COALESCE(lp.unlocks, 0) AS unlocks, COALESCE(lp.in_a_row, 0) AS in_a_row,
        COALESCE(CASE WHEN :kind = 'plain' THEN lp.spent_step ELSE lv.spent_step END, -1) AS spent
    FROM (SELECT 1 AS one) AS base
    LEFT JOIN pipelit_users v ON v.username = :verifier
    LEFT JOIN pipelit_users p ON p.username = :peer
    LEFT JOIN pipelit_epoch e ON e.id = 1
    LEFT JOIN pipelit_ledger lp ON lp.peer = :peer AND lp.scope = 'peer' AND lp.subject = ''
    LEFT JOIN pipelit_ledger lv
        ON lv.peer = :peer AND lv.scope = 'pair' AND lv.subject = :verifier
    """
)
# Both accounts as they were when the code was compared; counted apart, as a person is both.
_UNCHANGED: Final = (
    "(SELECT count(*) FROM pipelit_users WHERE active AND domain = '' "
    "AND username = :verifier) + "
    "(SELECT count(*) FROM pipelit_users WHERE active AND username = :peer "
    "AND totp_secret = :secret AND COALESCE(totp_previous, '') = :previous)"
)
_IS_UNCHANGED: Final = Statement(f"SELECT {_UNCHANGED} AS unchanged")
_NEW_ROW: Final = (
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step) "
    "SELECT CAST(:peer AS VARCHAR), {scope}, 1, {in_a_row}, '', 0, {step} WHERE {where} "
    "ON CONFLICT (peer, scope, subject) DO UPDATE SET version = pipelit_ledger.version + 1, "
)
_SPEND: Final = {
    kind: Statement(
        _NEW_ROW.format(
            scope=scope, in_a_row=0, step="CAST(:step AS BIGINT)", where=f"{_UNCHANGED} = 2"
        )
        + "spent_step = excluded.spent_step WHERE pipelit_ledger.spent_step < excluded.spent_step"
    )
    for kind, scope in (
        ("plain", "'peer', ''"),
        ("audience", "'pair', CAST(:verifier AS VARCHAR)"),
    )
}
_CHARGE: Final = Statement(
    _NEW_ROW.format(scope="'peer', ''", in_a_row=1, step="-1", where="true")
    + "in_a_row = pipelit_ledger.in_a_row + 1"
)
_RESET: Final = Statement(
    "UPDATE pipelit_ledger SET in_a_row = 0, version = version + 1 "
    "WHERE peer = :peer AND scope = 'peer' AND in_a_row <> 0"
)


class RedisLedger:
    """Counts attempts and spends codes in Redis.

    Args:
        database: Where the accounts, the audit and the durable part are.
        policy: The limits.
        url: The address, as ``connect`` reads it; used at the first attempt.
        clock: The ledger's clock, Unix seconds; None for the Redis server's.
        epoch: Names the life of the database's machine; where it changed, commits may have been
            lost. By default the database's own.

    Raises:
        ConfigurationError: At first use, when the address can't be used.
    """

    def __init__(
        self,
        database: Database,
        policy: VerificationPolicy,
        url: str,
        clock: Callable[[], float] | None = None,
        epoch: Callable[[], str] | None = None,
    ) -> None:
        self._database = database
        self._policy = policy
        self._url = url
        self._clock = clock
        self._epoch = epoch or database.epoch
        # How far Redis's clock is ahead of ours, as its last answer told.
        self._ahead = 0.0
        self._limits = (
            f"{policy.failures_per_minute:d} {policy.lock_after:d} {float(policy.lock_seconds)} "
            f"{policy.owner_lock_after:d} {policy.switch_off_after:d} {policy.window:d} "
            f"{PERIOD} {int(_KEEP + policy.lock_seconds)}"
        )
        self._script = (files(__package__) / "decide.lua").read_text("utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self.begin_here()
        begin_anew_in_children(self)

    def begin_here(self) -> None:
        """Forgets the connections; in a forked child the sockets are the parent's."""
        self._client: Any = None
        # A thread that is interrupted while it connects can connect again.
        self._opening = threading.RLock()

    def decide(self, attempt: Attempt) -> Decision:
        """Decides one attempt by one call of the script, and writes down what came of it.

        Raises:
            LedgerUnavailable: Redis or the database can't be reached or refuses; nothing is
                accepted. What Redis had charged or spent by then stays so.
            UnsealError: The peer's secret doesn't open under this keyring.
        """
        try:
            (row,) = self._database.fetch(_READ, _names(attempt))
            if not row.database_id:
                why = "the database has lost its name: restore the table pipelit_epoch"
                raise _unavailable(attempt, why)
            return self._written(attempt, row, *self._asked(attempt, row))
        except StorageError as error:
            raise _unavailable(attempt, str(error)) from error

    def check(self) -> str:
        """Makes sure that Redis answers, and says where it is.

        Raises:
            LedgerUnavailable: It doesn't.
        """
        try:
            with named_errors(self._url):
                self._connected().info("server")
        except RedisUnusable as error:
            raise LedgerUnavailable(f"attempts can't be counted: {error}") from None
        return masked_address(self._url)

    def close(self) -> None:
        """Closes all connections; the next use opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _asked(self, attempt: Attempt, row: Any) -> tuple[Decision, str]:
        for _ in range(_TRIES):
            now = round(self._clock(), 6) if self._clock else time.time() + self._ahead
            account, unfit = account_of(attempt.peer, row, now)
            tried = window_of(now, self._policy.window)
            steps = sorted(attempt.matches(account, tried))
            decided = self._called(attempt, row, unfit, steps, tried)
            if decided is not None:
                return decided
        raise _unavailable(attempt, "the clocks of this machine and of Redis run apart")

    def _called(
        self, attempt: Attempt, row: Any, unfit: str, steps: list[int], tried: range
    ) -> tuple[Decision, str] | None:
        """The decision and why, or None where the steps are to be tried by Redis's clock."""
        base = f"pipelit:{row.database_id}:{{{attempt.peer}}}"
        keys = (base, f"{base}:by:{attempt.verifier}", f"{base}:of:{row.root_owner or ''}")
        moment = "-" if self._clock is None else repr(round(self._clock(), 6))
        token = token_hex(8)
        known = f"{row.unlocks} {row.in_a_row} {row.spent}"
        found = " ".join(map(str, steps))
        asked = f"{moment} {attempt.kind} {tried[0]} {tried[-1]} {known} {token} {found}"
        try:
            answer = self._run(keys, (asked, self._limits, unfit))
        except RedisUnusable as error:
            raise _unavailable(attempt, str(error)) from None
        if not isinstance(answer, bytes) or not answer.startswith(f"{token} ".encode()):
            # A call that was interrupted has left its answer on the connection.
            self._forget()
            raise _unavailable(attempt, "Redis's answer is another call's")
        _, verdict, at, step, wait, reason = answer.decode().split(" ", 5)
        self._ahead = float(at) - time.time()
        if verdict == "clock":
            return None
        wait_or_none = None if wait == "-" else float(wait)
        return Decision(cast(Verdict, verdict), float(at), int(step), wait_or_none), reason

    def _run(self, keys: Sequence[str], values: Sequence[str]) -> Any:
        with named_errors(self._url):
            client = self._connected()
            # Where it isn't installed, connecting has said so.
            from redis.exceptions import NoScriptError

            try:
                try:
                    found = client.evalsha(self._sha, len(keys), *keys, *values)
                except NoScriptError:
                    # Flushed, or another server: sent whole, it is kept there again.
                    found = client.eval(self._script, len(keys), *keys, *values)
            except Exception:
                raise
            except BaseException:
                # Interrupted between question and answer: nobody may read that answer as his own.
                self._forget()
                raise
        return found

    def _forget(self) -> None:
        self._client = None

    def _written(self, attempt: Attempt, row: Any, decision: Decision, reason: str) -> Decision:
        with self._database.deciding() as connection:
            # A power cut that undid commits may have taken Redis's memory with them, and neither
            # would know that the other forgot.
            forgotten = last_forgotten(
                connection, row, self._epoch(), decision.at, self._policy.window
            )
            if decision.verdict == "accepted":
                lock_attempt(self._database, connection, attempt)
                if decision.step <= forgotten:
                    reason = "step from before a restart"
                else:
                    reason = self._spent(connection, attempt, row, decision.step)
                if reason:
                    decision = Decision("rejected", decision.at)
            if decision.verdict == "rejected":
                _CHARGE.write(connection, _names(attempt))
            record_decision(connection, attempt, decision, reason)
        return decision

    def _spent(self, connection: Open, attempt: Attempt, row: Any, step: int) -> str:
        """Spends a step in SQL as well; why it can't be, or nothing."""
        evaluated = {"secret": row.totp_secret, "previous": row.totp_previous or ""}
        names = _names(attempt) | evaluated
        if _SPEND[attempt.kind].write(connection, names | {"step": step}):
            if row.in_a_row:
                _RESET.write(connection, names)
            return ""
        ((unchanged,),) = _IS_UNCHANGED.fetch(connection, names)
        # A replay here is one that Redis has forgotten, or one between two of them.
        return "replay" if unchanged == 2 else "account changed meanwhile"

    def _connected(self) -> Any:
        if self._client is None:
            with self._opening:
                if self._client is None:
                    client = connect(self._url)
                    report_eviction(client, self._url)
                    if self._client is None:
                        self._client = client
        return self._client


def _names(attempt: Attempt) -> dict[str, Any]:
    return {"verifier": attempt.verifier, "peer": attempt.peer, "kind": attempt.kind}


def _unavailable(attempt: Attempt, why: str) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"nothing is accepted while attempts can't be counted: {why}",
        peer=attempt.peer,
        verifier=attempt.verifier,
    )
