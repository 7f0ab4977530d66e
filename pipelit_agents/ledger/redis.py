"""The ledger in Redis: one script decides, and SQL keeps what Redis may lose.

Redis counts attempts and spends codes for many processes at once, which needn't wait for each other
in the database. What must survive an eviction, a flush or a failover is in SQL too: see
``pipelit_agents.ledger.redis_rows``. It is written with the audit entry, in one transaction, and
before the decision is returned. If Redis forgets, no spent code becomes good again, and a guesser
gains at most the failures of one minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from pipelit_agents.database.engine import Database
from pipelit_agents.errors import LedgerUnavailable, StorageError
from pipelit_agents.ledger.attempts import (
    Account,
    Attempt,
    Decision,
    LaneKind,
    account_of,
    is_person,
)
from pipelit_agents.ledger.common import lock_attempt, write_decision
from pipelit_agents.ledger.lanes import GIVE_OWN_LANE
from pipelit_agents.ledger.machine import Life, last_forgotten, life_of
from pipelit_agents.ledger.redis_rows import (
    Charge,
    Known,
    SpentColumn,
    attempt_values,
    charge,
    read_known,
    spend,
)
from pipelit_agents.ledger.redis_script import Answer, Script
from pipelit_agents.ledger.redis_url import RedisUnusable, masked_address
from pipelit_agents.ledger.rules import (
    Found,
    Rules,
    compared,
    find_steps,
    was_expired,
    window_of,
)
from pipelit_agents.policy import VerificationPolicy
from pipelit_agents.protocol.binding import PERIOD

__all__ = ["RedisLedger"]

# Seconds that Redis keeps a key: longer than the minute whose failures it counts, and longer than
# the database takes to restart. Locks are in SQL too, however long they last.
_KEEP: Final = 86_400
_TRIES: Final = 3


class RedisLedger:
    """Counts attempts and spends codes in Redis.

    Args:
        database: The database of the accounts, the audit and the durable part.
        policy: The limits.
        url: The address, as ``connect`` reads it; used at the first attempt.
        clock: The ledger's clock, Unix seconds; None for the Redis server's.
        epoch: Returns an id of the boot of the database's machine. When it changes, commits may
            have been lost. By default the database's own.
        uptime: Returns the seconds since that boot, which setting the clock doesn't change. By
            default the machine's own if ``clock`` is None, and otherwise unknown.

    Raises:
        ConfigurationError: At first use, if the address can't be used.
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
        self._limits = (
            f"{policy.failures_per_minute:d} {policy.lock_after:d} {float(policy.lock_seconds)} "
            f"{float(policy.longest_lock_seconds)} {policy.window:d} {PERIOD} {_KEEP}"
        )
        self._script = Script(url)

    def decide(self, attempt: Attempt) -> Decision:
        """Decide one attempt by one call of the script, and write what follows from it.

        Raises:
            LedgerUnavailable: Redis or the database can't be reached or refuses; nothing is
                accepted. What Redis has charged or spent by then stays so.
            UnsealError: The peer's secret doesn't open under this keyring.
        """
        try:
            known = read_known(self._database, attempt)
            if not known.database_id:
                why = "the database has lost its name: restore the table pipelit_epoch"
                raise _unavailable(attempt, why)
            answer, column = self._answer(attempt, known)
            return self._written(attempt, known, answer, column)
        except LedgerUnavailable:
            raise
        except RedisUnusable as error:
            raise _unavailable(attempt, str(error)) from None
        except StorageError as error:
            raise _unavailable(attempt, str(error)) from error

    def check(self) -> str:
        """Make sure that Redis answers, and return its address, without a password.

        Raises:
            LedgerUnavailable: It doesn't answer.
        """
        try:
            self._script.ping()
        except RedisUnusable as error:
            raise LedgerUnavailable(f"attempts can't be counted: {error}") from None
        return masked_address(self._url)

    def close(self) -> None:
        """Close all connections. The next use opens new ones."""
        self._script.close()

    def _answer(self, attempt: Attempt, known: Known) -> tuple[Answer, SpentColumn]:
        """Return the script's answer, and the column in which an accepted step is to be spent."""
        for _ in range(_TRIES):
            now = round(self._clock(), 6) if self._clock else time.time() + self._script.ahead
            account, unfit = account_of(attempt, known, now)
            account, _ = self._compared(attempt, known, account, now)
            tried = window_of(now, self._window)
            found = find_steps(attempt, account, unfit, tried, known.spent_ahead)
            answer = self._run(attempt, known, found, tried, now)
            if answer is not None:
                return answer, "spent_step" if answer.step in found.steps else "spent_previous"
        raise _unavailable(attempt, "the clocks of this machine and of Redis run apart")

    def _run(
        self, attempt: Attempt, known: Known, found: Found, tried: range, now: float
    ) -> Answer | None:
        scope, subject = known.lane_of(attempt)
        base = f"pipelit:{known.database_id}:{{{attempt.peer}}}"
        spender = "" if attempt.kind == "plain" else f":{attempt.verifier}"
        keys = (f"{base}:{known.generation}:{scope}:{subject}", f"{base}:spent{spender}")
        moment = "-" if self._clock is None else repr(round(self._clock(), 6))
        lane = self._rules.seen(known.lane, now, known.class_of_lane(attempt))
        unlocks = known.newest_unlock
        of_spent = known.unlocks_of_all if attempt.kind == "plain" else unlocks
        question = (
            f"{moment} {tried[0]} {tried[-1]} {unlocks} {known.version} {known.in_a_row} "
            f"{float(known.locked_until)!r} {self._rules.forgives(lane, now):d} {of_spent} "
            f"{known.generation} {known.spent} {known.previous}"
        )
        steps = (" ".join(map(str, each)) for each in (found.steps, found.previous))
        return self._script.decide(keys, question, self._limits, found.unfit, *steps)

    def _written(
        self, attempt: Attempt, known: Known, answer: Answer, column: SpentColumn
    ) -> Decision:
        at, verdict, reason = answer.at, answer.verdict, answer.reason
        scope, _ = known.lane_of(attempt)
        # Before the transaction, because it takes time.
        cost = self._cost(attempt, known, answer) if verdict == "rejected" else 0.0
        with self._database.deciding() as connection:
            # A power cut that undid commits may also have emptied Redis's memory, and neither would
            # know that the other forgot.
            life = self._life = self._life or life_of(
                self._database, self._clock, self._epoch, self._uptime
            )
            forgotten = last_forgotten(connection, known, life, attempt.verifier, at, self._window)
            if verdict == "accepted":
                lock_attempt(self._database, connection, attempt)
                if forgotten.unfit or answer.step <= forgotten.step:
                    reason = forgotten.unfit or "step from before a restart"
                else:
                    charged = self._charge(attempt, known, answer, 0.0)
                    reason = spend(connection, attempt, known, answer.step, column, charged)
                if reason:
                    # Redis has ended the failures in a row, so begin them again.
                    verdict = "rejected"
                    failures = known.in_a_row + 1
                    until = self._rules.lock_end(failures, at)
                    answer = answer._replace(
                        version=answer.version + 1, in_a_row=failures, locked_until=until
                    )
            elif verdict == "rejected" and forgotten.unfit:
                reason, cost = account_of(attempt, known, at)[1] or forgotten.unfit, 0.0
            locked: LaneKind | None = None
            charged = self._charge(attempt, known, answer, cost)
            if verdict == "rejected":
                charge(connection, attempt, known, charged)
                if answer.in_a_row == self._rules.policy.lock_after:
                    locked = scope
            elif verdict == "accepted":
                if known.in_a_row > answer.in_a_row:
                    charge(connection, attempt, known, charged)
                if scope == "others" and not is_person(known):
                    own_lanes = {"own_lanes": self._rules.policy.own_lanes}
                    GIVE_OWN_LANE.write(connection, attempt_values(attempt) | own_lanes)
            step = answer.step if verdict == "accepted" else 0
            decision = Decision(verdict, at, step, answer.wait)
            write_decision(connection, attempt, decision, reason, locked=locked)
        forgotten.require_one_kernel(attempt)
        return decision

    def _charge(self, attempt: Attempt, known: Known, answer: Answer, cost: float) -> Charge:
        most = answer.at + self._rules.longest_debt(known.class_of_lane(attempt))
        return Charge(answer.version, answer.in_a_row, answer.locked_until, answer.at, cost, most)

    def _cost(self, attempt: Attempt, known: Known, answer: Answer) -> float:
        """Return by how many seconds a refused code moves the lane's ``whole_at`` on."""
        account, _ = account_of(attempt, known, answer.at)
        account, secrets = self._compared(attempt, known, account, answer.at)
        # A code that was right when it was made is the peer's own, and no guess.
        guessed = not was_expired(attempt, account, answer.at, self._window)
        if not guessed or answer.reason != "wrong code":
            return 0.0
        return secrets * self._rules.cost(known.class_of_lane(attempt))

    def _compared(
        self, attempt: Attempt, known: Known, account: Account | None, now: float
    ) -> tuple[Account | None, int]:
        lanes = known.class_of_lane(attempt)
        return compared(account, self._rules, self._rules.seen(known.lane, now, lanes), now, lanes)


def _unavailable(attempt: Attempt, why: str) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"nothing is accepted while attempts can't be counted: {why}",
        peer=attempt.peer,
        verifier=attempt.verifier,
    )
