"""The ledger in the SQL database: one transaction reads, decides, charges, spends and audits.

The write lock is taken first, and the upsert applies only to the versions that were read, so of two
simultaneous attempts, the second sees what the first has written. Each refusal runs the same
statements, so the time taken doesn't tell why it was refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import DriverRow, Flag, Open, Query, Statement
from pipelit_agents.errors import LedgerUnavailable, StorageError
from pipelit_agents.ledger.attempts import (
    Attempt,
    CodeKind,
    Decision,
    LaneKind,
    Proposal,
    account_of,
    is_person,
)
from pipelit_agents.ledger.common import at_moment, lock_attempt, write_decision
from pipelit_agents.ledger.lanes import (
    GIVE_OWN_LANE,
    IN_FAMILY,
    SHARED_LANE,
    UNFIT_VERIFIER,
    VERIFIER_ACTIVE,
)
from pipelit_agents.ledger.machine import Forgotten, Life, last_forgotten, life_of
from pipelit_agents.ledger.rules import (
    Lane,
    Peer,
    Rules,
    Ruling,
    Spent,
    State,
    class_of,
    decide,
)
from pipelit_agents.ledger.settling import settle
from pipelit_agents.policy import VerificationPolicy

__all__ = ["SqlLedger", "Written"]

_RETRIES: Final = 50

_COLUMNS: Final = (
    "version", "in_a_row", "recent", "locked_until", "whole_at", "spent_step", "spent_previous"
)  # fmt: skip
_WIDTH: Final = len(_COLUMNS)
_PLACES: Final = ("scope", "subject", *_COLUMNS)
# The rows of the ledger that an attempt needs. A missing row counts nothing.
_ROWS: Final = {
    "audience": {"l": "l.scope = 'pair' AND l.subject = :verifier"},
    "plain": {
        "s": "s.scope = 'peer' AND s.subject = ''",
        "o": f"o.subject = :verifier AND o.scope = CASE WHEN {UNFIT_VERIFIER} THEN 'nobody' "
        f"WHEN {IN_FAMILY} THEN '' ELSE 'plain' END",
        "t": f"t.subject = '' AND t.scope = {SHARED_LANE}",
    },
}
_UPSERT: Final = (
    f"INSERT INTO pipelit_ledger (peer, {', '.join(_PLACES)}) VALUES {{rows}} "
    "ON CONFLICT (peer, scope, subject) DO UPDATE SET "
    + ", ".join(f"{each} = excluded.{each}" for each in _COLUMNS)
    + " WHERE pipelit_ledger.version = excluded.version - 1"
)


# A row of the ledger, as _COLUMNS; all None if it isn't there.
_Counted: TypeAlias = tuple[int | None, int, str, float, float, int, int]


class _Read(NamedTuple):
    """The accounts of an attempt, the machine's life, and the rows that the attempt needs."""

    now: float | None
    verifier_active: Flag | None
    unfit: Flag
    shared: LaneKind
    spent_ahead: str | None
    active: Flag | None
    kind: str | None
    domain: str | None
    totp_secret: str | None
    totp_previous: str | None
    totp_previous_until: float | None
    relation: str | None
    boot_id: str | None
    changed_at: float | None
    clock_offset: float | None
    counted: tuple[_Counted, ...]


class _Reading(Query[_Read]):
    """Reads the ledger's rows by their order, after all other columns."""

    def maker(self, columns: Sequence[str]) -> Callable[[DriverRow], _Read]:
        first = len(_Read._fields) - 1
        if (*columns[:first], "counted") != _Read._fields:
            raise TypeError(f"the columns must be those of _Read, not {', '.join(columns)}")
        rows = [slice(start, start + _WIDTH) for start in range(first, len(columns), _WIDTH)]
        return lambda row: _Read._make((*row[:first], tuple([row[each] for each in rows])))


@cache
def _reading(now: str, kind: CodeKind) -> _Reading:
    rows = _ROWS[kind]
    read = ", ".join(f"{row}.{each} AS {row}_{each}" for row in rows for each in _COLUMNS)
    joins = " ".join(
        f"LEFT JOIN pipelit_ledger {row} ON {row}.peer = :peer AND {where}"
        for row, where in rows.items()
    )
    spender = "l" if kind == "audience" else "s"
    return _Reading(
        f"SELECT {now} AS now, {VERIFIER_ACTIVE} AS verifier_active, {UNFIT_VERIFIER} AS unfit, "
        f"{SHARED_LANE} AS shared, {spender}.spent_ahead, p.active, p.kind, p.domain, "
        f"p.totp_secret, p.totp_previous, p.totp_previous_until, p.relation, e.boot_id, "
        f"e.changed_at, e.clock_offset, {read} "
        "FROM (SELECT 1 AS one) AS base "
        "LEFT JOIN pipelit_users v ON v.username = :verifier "
        "LEFT JOIN pipelit_users p ON p.username = :peer "
        f"LEFT JOIN pipelit_epoch e ON e.id = 1 {joins}",
        _Read,
    )


@cache
def _parameters(number: int) -> tuple[str, ...]:
    return tuple(f"{each}{number}" for each in _PLACES)


@cache
def _writing(count: int) -> Statement:
    rows = (", ".join(f":{each}" for each in _parameters(number)) for number in range(count))
    return Statement(_UPSERT.format(rows=", ".join(f"(:peer, {each})" for each in rows)))


class _Row:
    """A row of the ledger, with its scope and subject."""

    __slots__ = ("lane", "scope", "spent", "subject", "version")

    def __init__(self, scope: str, subject: str, values: _Counted) -> None:
        self.scope, self.subject = scope, subject
        version, in_a_row, recent, locked_until, whole_at, step, previous = values
        self.version = version or 0
        if version is None:
            self.lane, self.spent = Lane(), Spent()
        else:
            moments = tuple(map(float, recent.split())) if recent else ()
            self.lane = Lane(in_a_row, moments, locked_until, whole_at)
            self.spent = Spent(step, previous)

    def written(self, number: int) -> dict[str, object]:
        lane = self.lane
        values = (
            self.scope,
            self.subject,
            self.version + 1,
            lane.in_a_row,
            " ".join(map(repr, lane.recent)),
            lane.locked_until,
            lane.whole_at,
            *self.spent,
        )
        return dict(zip(_parameters(number), values, strict=True))


class Written(NamedTuple):
    """A decision that was written.

    Attributes:
        decision: The decision.
        forgotten: What the database may have forgotten.
        alone: As in ``Settled``.
    """

    decision: Decision
    forgotten: Forgotten
    alone: Ruling | None


class SqlLedger:
    """Counts attempts and spends codes in the SQL database.

    Args:
        database: The database.
        policy: The limits.
        clock: The ledger's clock, Unix seconds; None for the server's, or the machine's if the
            database is a file.
        epoch: Returns an id of the machine's boot. When it changes, commits may have been lost. By
            default the database's own.
        uptime: Returns the seconds since that boot, which setting the clock doesn't change. By
            default the machine's own if ``clock`` is None, and otherwise unknown.
    """

    def __init__(
        self,
        database: Database,
        policy: VerificationPolicy,
        clock: Callable[[], float] | None = None,
        epoch: Callable[[], str] | None = None,
        uptime: Callable[[], float] | None = None,
    ) -> None:
        self._database = database
        self._rules = Rules(policy)
        self._window = policy.window
        self._clock = clock
        self._epoch = epoch
        self._uptime = uptime
        self._life: Life | None = None

    def decide(self, attempt: Attempt) -> Decision:
        """Decide one attempt in a transaction of its own, which is durable when this returns.

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
        """Return where it counts. It doesn't connect to the database."""
        return "the database"

    def close(self) -> None:
        """Do nothing, because the connections are the database's."""

    def settle(self, connection: Open, attempt: Attempt, proposal: Proposal) -> Written:
        """Count, spend and audit an attempt that a ledger of the user's own has decided.

        Args:
            connection: In the transaction that decides.
            attempt: The attempt.
            proposal: What that ledger decided.

        Raises:
            LedgerUnavailable: Another attempt about the peer was decided meanwhile.
        """
        lock_attempt(self._database, connection, attempt)
        written = self._written(connection, attempt, proposal)
        if written is None:
            raise LedgerUnavailable(
                "nothing is accepted: another attempt about the peer was decided meanwhile; "
                "lock_attempt must be called first in the transaction that decides",
                peer=attempt.peer,
                verifier=attempt.verifier,
            )
        return written

    def _decide_once(self, attempt: Attempt) -> Decision | None:
        with self._database.deciding() as connection:
            lock_attempt(self._database, connection, attempt)
            written = self._written(connection, attempt)
            if written is None:
                connection.rollback()
                return None
        # After it is written, so that the other kernel sees it too.
        written.forgotten.require_one_kernel(attempt)
        return written.decision

    def _written(
        self, connection: Open, attempt: Attempt, proposal: Proposal | None = None
    ) -> Written | None:
        """Decide, and write what follows; return None if others were faster."""
        names = {"verifier": attempt.verifier, "peer": attempt.peer}
        read = _reading(self._database.server_clock, attempt.kind)
        (row,) = read.fetch(connection, names | {"own": attempt.own, "first": attempt.first})
        now = at_moment(self._clock, row.now) if proposal is None else proposal.decision.at
        life = self._life = self._life or life_of(
            self._database, self._clock, self._epoch, self._uptime
        )
        forgotten = last_forgotten(connection, row, life, attempt.verifier, now, self._window)
        if forgotten.kernels:
            decision = Decision("rejected", now)
            write_decision(connection, attempt, decision, forgotten.unfit)
            return Written(decision, forgotten, None)
        return self._decided(connection, attempt, row, now, forgotten, proposal)

    def _decided(
        self,
        connection: Open,
        attempt: Attempt,
        row: _Read,
        now: float,
        forgotten: Forgotten,
        proposal: Proposal | None,
    ) -> Written | None:
        names, person = {"verifier": attempt.verifier, "peer": attempt.peer}, is_person(row)
        lane, counted, spender = _rows(attempt, row, person)
        account, unfit = account_of(attempt, row, now)
        peer = Peer(account, unfit or forgotten.unfit, class_of(lane, person=person))
        before, rules = State(counted.lane, spender.spent, row.spent_ahead or ""), self._rules
        alone: Ruling | None
        if proposal is None:
            state, ruling = decide(before, attempt, peer, rules, now, forgotten=forgotten.step)
            alone = ruling
        else:
            state, ruling, alone = settle(
                proposal, before, attempt, peer, rules, now, forgotten=forgotten.step
            )
        written = [counted]
        if ruling.verdict == "accepted":
            # Write the lane only if there was something to forgive.
            written = [spender]
            if counted is not spender and state.lane != counted.lane:
                written.append(counted)
        counted.lane, spender.spent = state.lane, state.spent
        values: dict[str, object] = {"peer": attempt.peer}
        for number, each in enumerate(written):
            values |= each.written(number)
        if _writing(len(written)).write(connection, values) != len(written):
            return None
        if ruling.verdict == "accepted" and lane == "others" and not person:
            own_lanes = rules.policy.own_lanes
            GIVE_OWN_LANE.write(connection, names | {"own_lanes": own_lanes})
        decision = Decision(ruling.verdict, now, ruling.step, ruling.retry_after)
        locked = lane if ruling.first_lock else None
        write_decision(connection, attempt, decision, ruling.reason, locked=locked)
        return Written(decision, forgotten, alone)


def _rows(attempt: Attempt, row: _Read, person: bool) -> tuple[LaneKind, _Row, _Row]:
    """Return the lane's kind, its row, and the row with what is spent.

    For audience codes, both are the same row.
    """
    if attempt.kind == "audience":
        pair = _Row("pair", attempt.verifier, *row.counted)
        return "pair", pair, pair
    spent, own, shared = row.counted
    spender = _Row("peer", "", spent)
    if row.unfit:
        return "nobody", _Row("nobody", attempt.verifier, own), spender
    if own[0] is not None and not person:
        return "plain", _Row("plain", attempt.verifier, own), spender
    return row.shared, _Row(row.shared, "", shared), spender
