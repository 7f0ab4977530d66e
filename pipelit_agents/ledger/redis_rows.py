"""What the Redis ledger keeps in SQL: what it reads for an attempt, and what it writes after it.

The lane's failures in a row, its lock and its yearly allowance are here, and each step that was
spent. Redis may lose all that it has without making a spent code good again.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Flag, Open, Query, Statement
from pipelit_agents.ledger.attempts import Attempt, LaneKind, is_person
from pipelit_agents.ledger.lanes import IN_FAMILY, SHARED_LANE, UNFIT_VERIFIER, VERIFIER_ACTIVE
from pipelit_agents.ledger.rules import Lane, class_of
from pipelit_agents.policy import LaneClass

__all__ = ["Charge", "Known", "SpentColumn", "attempt_values", "charge", "read_known", "spend"]

SpentColumn = Literal["spent_step", "spent_previous"]

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


class Known(NamedTuple):
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

    @property
    def newest_unlock(self) -> int:
        """The number of the last unlock that the lane knows of."""
        # An unlock of all lanes is written in the row of the peer, and into the others that exist.
        return max(int(self.unlocks), int(self.unlocks_of_all))

    @property
    def lane(self) -> Lane:
        """The lane, without the failures of the last minute, which only Redis counts."""
        return Lane(self.in_a_row, (), self.locked_until, self.whole_at)

    def lane_of(self, attempt: Attempt) -> tuple[LaneKind, str]:
        """Return in which lane the attempt counts: its kind and its subject."""
        if attempt.kind == "audience":
            return "pair", attempt.verifier
        if self.unfit:
            return "nobody", attempt.verifier
        return ("plain", attempt.verifier) if self.own else (self.shared, "")

    def class_of_lane(self, attempt: Attempt) -> LaneClass:
        """Return the class of the lane in which the attempt counts."""
        return class_of(self.lane_of(attempt)[0], person=is_person(self))


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
        Known,
    ),
    "plain": Query(
        _READ.format(
            columns=f"o.scope AS own, {UNFIT_VERIFIER} AS unfit, {SHARED_LANE} AS shared, "
            + _LANE_COLUMNS.format(lane="l")
            + _SPENT.format(row="s"),
            # The verifier's own lane if it has one, otherwise a shared one. Nobody has an own lane
            # about a person.
            joins="LEFT JOIN pipelit_ledger o "
            "ON o.peer = :peer AND o.scope = 'plain' AND o.subject = :verifier "
            "AND NOT (p.kind = 'human' AND p.domain = '') "
            f"AND CASE WHEN {IN_FAMILY} THEN 0 ELSE 1 END = 1 "
            "LEFT JOIN pipelit_ledger l ON l.peer = :peer AND l.subject = CASE "
            f"WHEN {UNFIT_VERIFIER} OR o.scope IS NOT NULL THEN :verifier ELSE '' END "
            f"AND l.scope = CASE WHEN {UNFIT_VERIFIER} THEN 'nobody' "
            f"WHEN o.scope IS NOT NULL THEN 'plain' ELSE {SHARED_LANE} END",
        ),
        Known,
    ),
}
# How many of the two accounts are as they were when the code was compared. Each is counted for
# itself, because a person's verifier is the same account.
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
# The column names the secret whose code was right. The step is spent for both secrets.
_COLUMNS: Final[tuple[SpentColumn, ...]] = ("spent_step", "spent_previous")
_SPEND: Final = {
    secret: Statement(
        _NEW_ROW.format(where=f"{_UNCHANGED} = 2")
        + ", ".join(
            f"{each} = CASE WHEN pipelit_ledger.{each} < excluded.{each} "
            f"THEN excluded.{each} ELSE pipelit_ledger.{each} END"
            for each in _COLUMNS
        )
        + f" WHERE pipelit_ledger.{secret} < excluded.{secret}"
    )
    for secret in _COLUMNS
}
# If two decisions are written in another order than Redis made them, the later one counts. A guess
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


def attempt_values(attempt: Attempt) -> dict[str, object]:
    """Return an attempt as parameters of a statement."""
    return {
        "verifier": attempt.verifier,
        "peer": attempt.peer,
        "kind": attempt.kind,
        "own": attempt.own,
        "first": attempt.first,
    }


def read_known(database: Database, attempt: Attempt) -> Known:
    """Return what SQL knows about an attempt, by one statement.

    Raises:
        StorageError: The database can't be reached, or refused the query.
    """
    (row,) = database.fetch(_READS[attempt.kind], attempt_values(attempt))
    return row


class Charge(NamedTuple):
    """The lane after a decision.

    Attributes:
        version: Grows with each decision about the lane.
        in_a_row: As in ``Lane``.
        locked_until: As in ``Lane``.
        at: The moment of the decision.
        cost: By how many seconds a guess moves ``whole_at`` on; 0 if it was no guess.
        most: The latest moment that ``whole_at`` can have.
    """

    version: int
    in_a_row: int
    locked_until: float
    at: float
    cost: float
    most: float


def charge(connection: Open, attempt: Attempt, known: Known, charged: Charge) -> None:
    """Write the lane's state after a decision."""
    scope, subject = known.lane_of(attempt)
    at = charged.at if charged.cost else 0.0
    values = {
        "scope": scope,
        "subject": subject,
        "version": charged.version,
        "in_a_row": charged.in_a_row,
        "locked_until": charged.locked_until,
        # Without a guess nothing is owed, even if the clock is set back.
        "whole_at": at + charged.cost,
        "at": at,
        "step": -1,
        "unlocks": known.newest_unlock,
        "cost": charged.cost,
        "most": charged.most,
    }
    _COUNT.write(connection, attempt_values(attempt) | values)


def spend(
    connection: Open,
    attempt: Attempt,
    known: Known,
    step: int,
    column: SpentColumn,
    charged: Charge,
) -> str:
    """Spend a step.

    Args:
        connection: In the transaction that decides.
        attempt: The attempt.
        known: The accounts as they were when the code was compared.
        step: The step.
        column: By which of the two secrets the code was right.
        charged: The lane after the decision; of an audience code, it is in the same row.

    Returns:
        Why the step can't be spent, or an empty string.
    """
    plain = attempt.kind == "plain"
    values = attempt_values(attempt) | {
        "secret": known.totp_secret,
        "previous": known.totp_previous or "",
        "scope": "peer" if plain else "pair",
        "subject": "" if plain else attempt.verifier,
        "version": 1 if plain else charged.version,
        "in_a_row": 0 if plain else charged.in_a_row,
        "locked_until": 0.0,
        "whole_at": 0.0,
        "step": step,
    }
    if _SPEND[column].write(connection, values):
        return ""
    ((unchanged,),) = _IS_UNCHANGED.fetch(connection, values)
    # Redis has forgotten this step, or another attempt spent it in between.
    return "replay" if unchanged == 2 else "account changed meanwhile"
