"""The ledger in Redis: one script decides, and SQL keeps what Redis may lose.

Redis counts attempts and spends codes for many processes at once, without their waiting for each
other in the database. What must outlive an eviction, a flush or a failover is in SQL as well: each
step that was spent and each lane's failures in a row, lock and yearly allowance. They are written
with the audit row before anybody hears of the decision. So a Redis that forgot can't make a spent
code good again, and gives a guesser the failures of one minute at the most.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from secrets import token_hex
from typing import Any, Final, NamedTuple, cast

from pipelit_agents._forks import reset_in_forked_children
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Flag, Open, Query, Statement
from pipelit_agents.errors import LedgerUnavailable, StorageError
from pipelit_agents.ledger.attempts import (
    Account,
    Attempt,
    Decision,
    Verdict,
    account_of,
    is_person,
)
from pipelit_agents.ledger.common import lock_attempt, record_decision
from pipelit_agents.ledger.lanes import (
    GIVE_OWN_LANE,
    IN_FAMILY,
    SHARED_LANE,
    UNFIT_VERIFIER,
    VERIFIER_ACTIVE,
)
from pipelit_agents.ledger.machine import Life, last_forgotten
from pipelit_agents.ledger.redis_url import (
    RedisUnusable,
    connect,
    masked_address,
    named_errors,
    report_eviction,
)
from pipelit_agents.ledger.rules import (
    Found,
    Lane,
    LaneKind,
    Rules,
    class_of,
    compared,
    find_steps,
    was_expired,
    window_of,
)
from pipelit_agents.policy import VerificationPolicy
from pipelit_agents.protocol.binding import PERIOD

__all__ = ["RedisLedger"]

# Longer than Redis alone needs to know anything: the failures of the last minute, and what could
# have been spent while the database was restarted. Locks are in SQL too, however long they last.
_KEEP: Final = 86_400
_TRIES: Final = 3

_LANE_COLUMNS: Final = (
    "COALESCE({lane}.unlocks, 0) AS unlocks, COALESCE({lane}.version, 0) AS version, "
    "COALESCE({lane}.in_a_row, 0) AS in_a_row, COALESCE({lane}.locked_until, 0) AS locked_until, "
    "COALESCE({lane}.whole_at, 0) AS whole_at, "
)
_READ: Final = (
    f"SELECT {VERIFIER_ACTIVE} AS verifier_active, p.active, p.kind, p.domain, "  # noqa: S608 - our words
    "p.totp_secret, p.totp_previous, p.totp_previous_until, p.relation, "
    "COALESCE(p.totp_generation, 0) AS generation, e.database_id, e.boot_id, e.changed_at, "
    "e.clock_offset, COALESCE(s.unlocks, 0) AS unlocks_of_all, {columns} "
    "FROM (SELECT 1 AS one) AS base "
    "LEFT JOIN pipelit_users v ON v.username = :verifier "
    "LEFT JOIN pipelit_users p ON p.username = :peer "
    "LEFT JOIN pipelit_epoch e ON e.id = 1 "
    "LEFT JOIN pipelit_ledger s ON s.peer = :peer AND s.scope = 'peer' AND s.subject = '' {joins}"
)
_SPENT: Final = (
    "COALESCE({row}.spent_step, -1) AS spent, COALESCE({row}.spent_previous, -1) AS previous, "
    "{row}.spent_ahead"
)


class _Read(NamedTuple):
    """The accounts of an attempt, the machine's life, and what SQL keeps of its lane."""

    verifier_active: Flag | None
    active: Flag | None
    kind: str | None
    domain: str | None
    totp_secret: str | None
    totp_previous: str | None
    totp_previous_until: float | None
    relation: str | None
    generation: int
    database_id: str | None
    boot_id: str | None
    changed_at: float | None
    clock_offset: float | None
    unlocks_of_all: int
    own: str | None
    unfit: Flag | None
    shared: LaneKind
    unlocks: int
    version: int
    in_a_row: int
    locked_until: float
    whole_at: float
    spent: int
    previous: int
    spent_ahead: str | None


class _Unchanged(NamedTuple):
    unchanged: int


_READS: Final = {
    "audience": Query(
        _READ.format(
            columns="NULL AS own, NULL AS unfit, 'pair' AS shared, "
            + _LANE_COLUMNS.format(lane="l")
            + _SPENT.format(row="l"),
            joins="LEFT JOIN pipelit_ledger l "
            "ON l.peer = :peer AND l.scope = 'pair' AND l.subject = :verifier",
        ),
        _Read,
    ),
    "plain": Query(
        _READ.format(
            columns=f"o.scope AS own, {UNFIT_VERIFIER} AS unfit, {SHARED_LANE} AS shared, "
            + _LANE_COLUMNS.format(lane="l")
            + _SPENT.format(row="s"),
            # Of the lane that is used; a person's verifiers have none of their own.
            joins="LEFT JOIN pipelit_ledger o "
            "ON o.peer = :peer AND o.scope = 'plain' AND o.subject = :verifier "
            "AND NOT (p.kind = 'human' AND p.domain = '') "
            f"AND CASE WHEN {IN_FAMILY} THEN 0 ELSE 1 END = 1 "
            "LEFT JOIN pipelit_ledger l ON l.peer = :peer AND l.subject = CASE "
            f"WHEN {UNFIT_VERIFIER} OR o.scope IS NOT NULL THEN :verifier ELSE '' END "
            f"AND l.scope = CASE WHEN {UNFIT_VERIFIER} THEN 'nobody' "
            f"WHEN o.scope IS NOT NULL THEN 'plain' ELSE {SHARED_LANE} END",
        ),
        _Read,
    ),
}
# Both accounts as they were when the code was compared; counted apart, as a person is both.
_UNCHANGED: Final = (
    "(SELECT count(*) FROM pipelit_users WHERE active AND domain = '' "
    "AND username = :verifier) + "
    "(SELECT count(*) FROM pipelit_users WHERE active AND username = :peer "
    "AND totp_secret = :secret AND COALESCE(totp_previous, '') = :previous)"
)
_IS_UNCHANGED: Final = Query(f"SELECT {_UNCHANGED} AS unchanged", _Unchanged)
_NEW_ROW: Final = (
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "whole_at, spent_step, spent_previous) SELECT CAST(:peer AS VARCHAR), CAST(:scope AS VARCHAR), "
    "CAST(:subject AS VARCHAR), CAST(:version AS BIGINT), CAST(:in_a_row AS INTEGER), '', "
    "CAST(:locked_until AS DOUBLE PRECISION), CAST(:whole_at AS DOUBLE PRECISION), "
    "CAST(:step AS BIGINT), CAST(:step AS BIGINT) WHERE {where} "
    "ON CONFLICT (peer, scope, subject) DO UPDATE SET "
)
# By which of the two secrets the code was right; the step is spent for both.
_SPEND: Final = {
    secret: Statement(
        _NEW_ROW.format(where=f"{_UNCHANGED} = 2")
        + ", ".join(
            f"{each} = CASE WHEN pipelit_ledger.{each} < excluded.{each} "
            f"THEN excluded.{each} ELSE pipelit_ledger.{each} END"
            for each in ("spent_step", "spent_previous")
        )
        + f" WHERE pipelit_ledger.{secret} < excluded.{secret}"
    )
    for secret in ("spent_step", "spent_previous")
}
# Of two that are written in another order than Redis decided, the later decision stays; but a guess
# is charged to the year's allowance in any case.
_IS_NEWER: Final = (
    "excluded.version > pipelit_ledger.version AND pipelit_ledger.unlocks <= :unlocks"
)
_COUNT: Final = Statement(
    _NEW_ROW.format(where="true")
    + ", ".join(
        f"{each} = CASE WHEN {_IS_NEWER} THEN excluded.{each} ELSE pipelit_ledger.{each} END"
        for each in ("version", "in_a_row", "locked_until")
    )
    + ", whole_at = CASE WHEN pipelit_ledger.whole_at > :most THEN :most "
    "WHEN :cost > 0 AND pipelit_ledger.whole_at < :at THEN :at "
    "ELSE pipelit_ledger.whole_at END + :cost"
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
        uptime: Seconds since that machine was started, which no clock setting changes. By default
            the machine's own where ``clock`` is None, and otherwise unknown.

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
        uptime: Callable[[], float] | None = None,
    ) -> None:
        self._database = database
        self._rules = Rules(policy)
        self._window = policy.window
        self._url = url
        self._clock = clock
        self._epoch = epoch
        self._uptime = uptime
        self._life: Life | None = None
        # How far Redis's clock is ahead of ours, as its last answer told.
        self._ahead = 0.0
        self._limits = (
            f"{policy.failures_per_minute:d} {policy.lock_after:d} {float(policy.lock_seconds)} "
            f"{float(policy.longest_lock_seconds)} {policy.window:d} {PERIOD} {_KEEP}"
        )
        self._script = (files(__package__) / "decide.lua").read_text("utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
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
            (row,) = self._database.fetch(_READS[attempt.kind], _names(attempt))
            if not row.database_id:
                why = "the database has lost its name: restore the table pipelit_epoch"
                raise _unavailable(attempt, why)
            return self._written(attempt, row, self._asked(attempt, row))
        except LedgerUnavailable:
            raise
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

    def _asked(self, attempt: Attempt, row: _Read) -> _Answer:
        for _ in range(_TRIES):
            now = round(self._clock(), 6) if self._clock else time.time() + self._ahead
            account, unfit = account_of(attempt, row, now)
            account, _ = self._compared(attempt, row, account, now)
            tried = window_of(now, self._window)
            found = find_steps(attempt, account, unfit, tried, row.spent_ahead)
            answer = self._called(attempt, row, found, tried, now)
            if answer.verdict != "clock":
                return answer
        raise _unavailable(attempt, "the clocks of this machine and of Redis run apart")

    def _called(
        self, attempt: Attempt, row: _Read, found: Found, tried: range, now: float
    ) -> _Answer:
        scope, subject = _lane_of(attempt, row)
        base = f"pipelit:{row.database_id}:{{{attempt.peer}}}"
        spender = "" if attempt.kind == "plain" else f":{attempt.verifier}"
        keys = (f"{base}:{row.generation}:{scope}:{subject}", f"{base}:spent{spender}")
        moment = "-" if self._clock is None else repr(round(self._clock(), 6))
        token = token_hex(8)
        unlocks = _unlocks(row)
        lane = Lane(row.in_a_row, (), row.locked_until, row.whole_at)
        lane = self._rules.seen(lane, now, class_of(scope, person=is_person(row)))
        of_spent = row.unlocks_of_all if attempt.kind == "plain" else unlocks
        asked = (
            f"{moment} {tried[0]} {tried[-1]} {unlocks} {row.version} {row.in_a_row} "
            f"{float(row.locked_until)!r} {self._rules.forgives(lane, now):d} {of_spent} "
            f"{row.generation} {row.spent} {row.previous} {token}"
        )
        steps = (" ".join(map(str, each)) for each in (found.steps, found.previous))
        try:
            answer = self._run(keys, (asked, self._limits, found.unfit, *steps))
        except RedisUnusable as error:
            raise _unavailable(attempt, str(error)) from None
        if not isinstance(answer, bytes) or not answer.startswith(f"{token} ".encode()):
            # A call that was interrupted has left its answer on the connection.
            self._forget()
            raise _unavailable(attempt, "Redis's answer is another call's")
        _, verdict, at, step, wait, *counted, reason = answer.decode().split(" ", 8)
        self._ahead = float(at) - time.time()
        return _Answer(
            cast(Verdict, verdict),
            float(at),
            int(step),
            None if wait == "-" else float(wait),
            int(counted[0]),
            int(counted[1]),
            float(counted[2]),
            reason,
            "spent_step" if int(step) in found.steps else "spent_previous",
        )

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

    def _written(self, attempt: Attempt, row: _Read, answer: _Answer) -> Decision:
        at, verdict, reason = answer.at, answer.verdict, answer.reason
        scope, _ = _lane_of(attempt, row)
        # Before the transaction: it takes time.
        cost = self._cost(attempt, row, answer) if verdict == "rejected" else 0.0
        with self._database.deciding() as connection:
            # A power cut that undid commits may have taken Redis's memory with them, and neither
            # would know that the other forgot.
            forgotten = last_forgotten(
                connection, row, self._life or self._begin_life(), attempt.verifier, at,
                self._window,
            )  # fmt: skip
            if verdict == "accepted":
                lock_attempt(self._database, connection, attempt)
                if forgotten.unfit or answer.step <= forgotten.step:
                    reason = forgotten.unfit or "step from before a restart"
                else:
                    reason = self._spent(connection, attempt, row, answer)
                if reason:
                    # Redis has ended the row of failures for it; so it is begun again.
                    verdict = "rejected"
                    failures = row.in_a_row + 1
                    until = self._rules.lock_end(failures, at)
                    answer = answer._replace(
                        version=answer.version + 1, in_a_row=failures, locked_until=until
                    )
            elif verdict == "rejected" and forgotten.unfit:
                reason, cost = account_of(attempt, row, at)[1] or forgotten.unfit, 0.0
            locked: LaneKind | None = None
            if verdict == "rejected":
                self._count(connection, attempt, row, answer, cost)
                if answer.in_a_row == self._rules.policy.lock_after:
                    locked = scope
            elif verdict == "accepted":
                if row.in_a_row > answer.in_a_row:
                    self._count(connection, attempt, row, answer, 0.0)
                if scope == "others" and not is_person(row):
                    own_lanes = self._rules.policy.own_lanes
                    GIVE_OWN_LANE.write(connection, _names(attempt) | {"own_lanes": own_lanes})
            accepted = verdict == "accepted"
            decision = Decision(verdict, at, answer.step if accepted else 0, answer.wait)
            record_decision(connection, attempt, decision, reason, locked=locked)
        forgotten.require_one_kernel(attempt)
        return decision

    def _cost(self, attempt: Attempt, row: _Read, answer: _Answer) -> float:
        """By how much a refused code moves on the moment at which the lane's allowance is whole."""
        account, _ = account_of(attempt, row, answer.at)
        account, secrets = self._compared(attempt, row, account, answer.at)
        # A code that was right when it was made is the peer's own, and no guess.
        guessed = not was_expired(attempt, account, answer.at, self._window)
        if not guessed or answer.reason != "wrong code":
            return 0.0
        cost = self._rules.cost(class_of(_lane_of(attempt, row)[0], person=is_person(row)))
        return secrets * cost

    def _compared(
        self, attempt: Attempt, row: _Read, account: Account | None, now: float
    ) -> tuple[Account | None, int]:
        lanes = class_of(_lane_of(attempt, row)[0], person=is_person(row))
        lane = Lane(row.in_a_row, (), row.locked_until, row.whole_at)
        return compared(account, self._rules, self._rules.seen(lane, now, lanes), now, lanes)

    def _count(
        self, connection: Open, attempt: Attempt, row: _Read, answer: _Answer, cost: float
    ) -> None:
        """Write the lane's state after a decision."""
        scope, subject = _lane_of(attempt, row)
        lanes = class_of(scope, person=is_person(row))
        values: dict[str, object] = {
            "scope": scope,
            "subject": subject,
            "version": answer.version,
            "in_a_row": answer.in_a_row,
            "locked_until": answer.locked_until,
            "whole_at": answer.at + cost if cost else 0.0,
            "step": -1,
            "unlocks": _unlocks(row),
            # Without a guess nothing is owed, also not by a clock that is set back.
            "at": answer.at if cost else 0.0,
            "cost": cost,
            "most": answer.at + self._rules.longest_debt(lanes),
        }
        _COUNT.write(connection, _names(attempt) | values)

    def _spent(self, connection: Open, attempt: Attempt, row: _Read, answer: _Answer) -> str:
        """Spends a step in SQL as well; why it can't be, or nothing."""
        evaluated = {"secret": row.totp_secret, "previous": row.totp_previous or ""}
        plain = attempt.kind == "plain"
        names = _names(attempt) | {
            **evaluated,
            "scope": "peer" if plain else "pair",
            "subject": "" if plain else attempt.verifier,
            "version": 1 if plain else answer.version,
            "in_a_row": 0 if plain else answer.in_a_row,
            "locked_until": 0.0,
            "whole_at": 0.0,
            "step": answer.step,
        }
        if _SPEND[answer.secret].write(connection, names):
            return ""
        ((unchanged,),) = _IS_UNCHANGED.fetch(connection, names)
        # A replay here is one that Redis has forgotten, or one between two of them.
        return "replay" if unchanged == 2 else "account changed meanwhile"

    def _begin_life(self) -> Life:
        uptime = self._uptime
        if uptime is None and self._clock is None:
            uptime = self._database.uptime
        self._life = Life(self._epoch or self._database.epoch, uptime)
        return self._life

    def _connected(self) -> Any:
        if self._client is None:
            with self._opening:
                if self._client is None:
                    client = connect(self._url)
                    report_eviction(client, self._url)
                    if self._client is None:
                        self._client = client
        return self._client


class _Answer(NamedTuple):
    """What the script decided."""

    verdict: Any
    at: float
    step: int
    wait: float | None
    version: int
    in_a_row: int
    locked_until: float
    reason: str
    # In which column of the row the step is to be spent.
    secret: str


def _lane_of(attempt: Attempt, row: _Read) -> tuple[LaneKind, str]:
    if attempt.kind == "audience":
        return "pair", attempt.verifier
    if row.unfit:
        return "nobody", attempt.verifier
    return ("plain", attempt.verifier) if row.own else (row.shared, "")


def _unlocks(row: _Read) -> int:
    # An unlock of all lanes is written in the row of the peer, and into the others that are there.
    return max(int(row.unlocks), int(row.unlocks_of_all))


def _names(attempt: Attempt) -> dict[str, object]:
    return {
        "verifier": attempt.verifier,
        "peer": attempt.peer,
        "kind": attempt.kind,
        "own": attempt.own,
        "first": attempt.first,
    }


def _unavailable(attempt: Attempt, why: str) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"nothing is accepted while attempts can't be counted: {why}",
        peer=attempt.peer,
        verifier=attempt.verifier,
    )
