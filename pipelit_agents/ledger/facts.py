"""What the database says about an attempt, for ledgers that count outside of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final, NamedTuple

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Flag, Open, Query
from pipelit_agents.errors import LedgerUnavailable
from pipelit_agents.ledger.attempts import Attempt, CodeKind, LaneKind, account_of, is_person
from pipelit_agents.ledger.common import at_moment
from pipelit_agents.ledger.lanes import IN_FAMILY, SHARED_LANE, UNFIT_VERIFIER, VERIFIER_ACTIVE
from pipelit_agents.ledger.rules import Peer, Spent, class_of

__all__ = ["Facts", "read_facts"]

# The kind of the lane and its subject, and where the verifier's own lane is looked up; a person's
# verifiers have none of their own.
_LANES: Final = {
    "audience": ("'pair'", ":verifier", ""),
    "plain": (
        f"CASE WHEN {UNFIT_VERIFIER} THEN 'nobody' WHEN o.scope IS NOT NULL THEN 'plain' "
        f"ELSE {SHARED_LANE} END",
        f"CASE WHEN {UNFIT_VERIFIER} OR o.scope IS NOT NULL THEN :verifier ELSE '' END",
        "LEFT JOIN pipelit_ledger o ON o.peer = :peer AND o.scope = 'plain' "
        "AND o.subject = :verifier AND NOT (p.kind = 'human' AND p.domain = '') "
        f"AND CASE WHEN {IN_FAMILY} THEN 0 ELSE 1 END = 1 ",
    ),
}


class Facts(NamedTuple):
    """The facts about an attempt that are in the database, without the counts of its lane.

    Attributes:
        now: The time by the ledger's clock, in Unix seconds.
        peer: The peer's account, the class of the lane, and why no code is accepted.
        lane: The kind and the subject of the lane in which the attempt counts. With the peer's name
            they name one lane.
        unlocks: A number that grows whenever this lane is unlocked. A ledger that has counted under
            another number applies ``Rules.unlocked`` before it decides.
        generation: A number that grows with each new secret of the peer. A step that was spent
            under a smaller number belongs to the previous secret, so ``Spent(step=s)`` becomes
            ``Spent(previous=s)``.
        spent: The spent steps, whichever ledger counted.
        ahead: The steps that were spent while the clock was ahead, for ``State.ahead``.
        database_id: The database's own id. If several databases count in one store, include it in
            each key.
    """

    now: float
    peer: Peer
    lane: tuple[LaneKind, str]
    unlocks: int
    generation: int
    spent: Spent
    ahead: str
    database_id: str


class _Read(NamedTuple):
    now: float | None
    verifier_active: Flag | None
    scope: LaneKind
    active: Flag | None
    kind: str | None
    domain: str | None
    totp_secret: str | None
    totp_previous: str | None
    totp_previous_until: float | None
    relation: str | None
    generation: int
    database_id: str | None
    spent_step: int
    spent_previous: int
    spent_ahead: str | None
    unlocks: int


@cache
def _reading(now: str, kind: CodeKind) -> Query[_Read]:
    scope, subject, join = _LANES[kind]
    spender = "'peer' AND s.subject = ''" if kind == "plain" else "'pair' AND s.subject = :verifier"
    return Query(
        f"SELECT {now} AS now, {VERIFIER_ACTIVE} AS verifier_active, {scope} AS scope, "  # noqa: S608 - our words
        "p.active, p.kind, p.domain, p.totp_secret, p.totp_previous, p.totp_previous_until, "
        "p.relation, COALESCE(p.totp_generation, 0) AS generation, e.database_id, "
        "COALESCE(s.spent_step, -1) AS spent_step, "
        "COALESCE(s.spent_previous, -1) AS spent_previous, s.spent_ahead, "
        "(SELECT COALESCE(max(u.unlocks), 0) FROM pipelit_ledger u WHERE u.peer = :peer AND "
        f"(u.scope = 'peer' OR (u.scope = {scope} AND u.subject = {subject}))) AS unlocks "
        "FROM (SELECT 1 AS one) AS base "
        "LEFT JOIN pipelit_users v ON v.username = :verifier "
        "LEFT JOIN pipelit_epoch e ON e.id = 1 "
        f"LEFT JOIN pipelit_ledger s ON s.peer = :peer AND s.scope = {spender} "
        f"LEFT JOIN pipelit_users p ON p.username = :peer {join}",
        _Read,
    )


def read_facts(
    database: Database, connection: Open, attempt: Attempt, clock: Callable[[], float] | None
) -> Facts:
    """Read the facts about an attempt, in the transaction that decides.

    Args:
        database: The database.
        connection: In a transaction of ``Database.deciding``, after ``lock_attempt``.
        attempt: The attempt.
        clock: As in ``LedgerContext``.

    Raises:
        LedgerUnavailable: The row with the database's id is missing.
    """
    statement = _reading(database.server_clock, attempt.kind)
    names = {"verifier": attempt.verifier, "peer": attempt.peer}
    (row,) = statement.fetch(connection, names | {"own": attempt.own, "first": attempt.first})
    if not row.database_id:
        raise LedgerUnavailable(
            "nothing is accepted: the database has lost its name: restore the table pipelit_epoch",
            peer=attempt.peer,
            verifier=attempt.verifier,
        )
    now = at_moment(clock, row.now)
    account, unfit = account_of(attempt, row, now)
    scope = row.scope
    peer = Peer(account, unfit, class_of(scope, person=is_person(row)))
    subject = attempt.verifier if scope in ("pair", "plain", "nobody") else ""
    return Facts(
        now,
        peer,
        (scope, subject),
        int(row.unlocks),
        int(row.generation),
        Spent(row.spent_step, row.spent_previous),
        row.spent_ahead or "",
        row.database_id,
    )
