"""Unlocking lanes, and beginning a new secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, text

from pipelit_agents.database.engine import Database
from pipelit_agents.ledger.attempts import is_person
from pipelit_agents.ledger.common import ledger_now
from pipelit_agents.ledger.rules import (
    EARLIEST,
    Lane,
    Rules,
    as_ranges,
    class_of,
    last_step,
    spent_ahead,
    window_of,
)
from pipelit_agents.protocol.binding import PERIOD

__all__ = ["begin_secret", "unlock"]

_KNOWN: Final = text(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step) VALUES (:peer, :scope, :subject, 1, 0, '', 0, -1) ON CONFLICT DO NOTHING"
)
_ONE_LANE: Final = " AND scope = :scope AND subject = :subject"
_COUNTED: Final = (
    "SELECT l.scope, l.subject, l.in_a_row, l.locked_until, l.whole_at, p.kind, p.domain "
    "FROM pipelit_ledger l LEFT JOIN pipelit_users p ON p.username = l.peer WHERE l.peer = :peer"
)
_COUNTED_IN_ALL: Final = text(_COUNTED)
_COUNTED_IN_ONE: Final = text(_COUNTED + _ONE_LANE)
_RECOUNT: Final = text(
    "UPDATE pipelit_ledger SET in_a_row = :in_a_row, recent = '', locked_until = :locked_until, "  # noqa: S608 - our words
    "whole_at = :whole_at, version = version + 1, "
    "unlocks = CASE WHEN unlocks < :at THEN :at ELSE unlocks + 1 END "
    f"WHERE peer = :peer{_ONE_LANE}"
)
_UNSPEND: Final = (
    "UPDATE pipelit_ledger SET "
    "spent_step = CASE WHEN spent_step > :last THEN :last ELSE spent_step END, "
    "spent_previous = CASE WHEN spent_previous > :last THEN :last ELSE spent_previous END "
    "WHERE peer = :peer"
)
_UNSPEND_ALL: Final = text(_UNSPEND)
_UNSPEND_ONE: Final = text(_UNSPEND + _ONE_LANE)
_AHEAD: Final = text(
    "SELECT scope, subject, spent_step, spent_previous, spent_ahead FROM pipelit_ledger "
    "WHERE peer = :peer AND (spent_step > :last OR spent_previous > :last)"
)
_SPENT_AT: Final = text(
    "SELECT at FROM pipelit_audit WHERE subject = :peer AND action = :action AND outcome = 'ok' "
    "AND (:actor = '' OR actor = :actor) AND at >= :begin AND at < :end ORDER BY id"
)
_KEEP_AHEAD: Final = text(
    "UPDATE pipelit_ledger SET spent_ahead = :ahead "
    "WHERE peer = :peer AND scope = :scope AND subject = :subject"
)
_NEW_SECRET: Final = text(
    "UPDATE pipelit_ledger SET spent_previous = spent_step, spent_step = -1 WHERE peer = :peer"
)
_NEW_GENERATION: Final = text(
    "UPDATE pipelit_users SET totp_generation = CASE WHEN totp_generation < :at THEN :at "
    "ELSE totp_generation + 1 END WHERE username = :peer"
)


def _keep_spent_ahead(connection: Connection, peer: str, last: int, window: int) -> None:
    """Write down which steps were spent after the last one that an unlock leaves spent."""
    for row in connection.execute(_AHEAD, {"peer": peer, "last": last}).all():
        highest = max(row.spent_step, row.spent_previous)
        pair = row.scope == "pair"
        values = {
            "peer": peer,
            "action": f"verify.{'audience' if pair else 'plain'}",
            "actor": row.subject if pair else "",
            "begin": (last + 1 - window) * PERIOD,
            "end": (highest + window + 1) * PERIOD,
        }
        # The last of them spent the highest step. Of those before, the audit tells the moment, and
        # the code was of a step in the window of it.
        *before, _ = connection.scalars(_SPENT_AT, values).all() or [None]
        steps = {step for at in before for step in window_of(at, window) if last < step < highest}
        ahead = as_ranges(spent_ahead(row.spent_ahead) | steps | {highest})
        values = {"peer": peer, "scope": row.scope, "subject": row.subject, "ahead": ahead}
        connection.execute(_KEEP_AHEAD, values)


def unlock(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    at: float,
    rules: Rules,
    clock: Callable[[], float] | None = None,
    lane: tuple[str, str] | None = None,
) -> None:
    """End the count of failures about a peer, in every ledger. Spent steps stay spent.

    A lane that has used up its wrong guesses of the year keeps its count and its lock.

    A step that was spent while the clock was ahead would refuse every code until the clock gets
    there. It becomes the last step that could have been spent until now, so that codes are good
    again after three periods, and none that could have been spent is. The steps that were spent
    after it are written down and stay spent, so that no code is good twice when the clock gets
    there, nor where it was this clock that was wrong, and behind.

    A ledger outside this database learns of it by the number of the unlock, which is the moment of
    it, so that it grows also where the database is restored from a backup. What that ledger
    counted may not have been written here, so there is a row to say it in.

    Args:
        database: The database.
        connection: In a transaction that writes.
        peer: Whose lanes.
        at: The moment of the unlock, Unix seconds.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
        lane: Scope and subject of the only lane to unlock; None for all.
    """
    database.lock(connection, f"ledger:{peer}")
    scope, subject = lane or ("peer", "")
    connection.execute(_KNOWN, {"peer": peer, "scope": scope, "subject": subject})
    now = ledger_now(database, connection, clock)
    # A clock that is behind can't tell what is ahead of it.
    window = rules.policy.window
    last = 2**62 if now < EARLIEST else last_step(now, window)
    values: dict[str, object] = {"peer": peer, "last": last}
    _keep_spent_ahead(connection, peer, last, window)
    _recount(connection, peer, at, now, rules, lane)
    if lane is None:
        connection.execute(_UNSPEND_ALL, values)
    else:
        connection.execute(_UNSPEND_ONE, values | {"scope": scope, "subject": subject})


def _recount(
    connection: Connection,
    peer: str,
    at: float,
    now: float,
    rules: Rules,
    lane: tuple[str, str] | None = None,
) -> None:
    names = {"peer": peer}
    if lane is None:
        rows = connection.execute(_COUNTED_IN_ALL, names).all()
    else:
        names |= {"scope": lane[0], "subject": lane[1]}
        rows = connection.execute(_COUNTED_IN_ONE, names).all()
    changed = []
    for row in rows:
        counted = Lane(row.in_a_row, (), row.locked_until, row.whole_at)
        left = rules.unlocked(counted, now, class_of(row.scope, person=is_person(row)))
        changed.append(
            {
                "peer": peer,
                "scope": row.scope,
                "subject": row.subject,
                "at": int(at),
                "in_a_row": left.in_a_row,
                "locked_until": left.locked_until,
                "whole_at": left.whole_at,
            }
        )
    if changed:
        connection.execute(_RECOUNT, changed)


def begin_secret(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    at: float,
    rules: Rules,
    clock: Callable[[], float] | None = None,
    spent: bool = False,
) -> None:
    """Prepare the ledger for a new secret of a peer, of which nothing is spent.

    What was spent of the secret before it stays spent, for as long as its codes are good. The lanes
    are treated as by ``unlock``: a guess hits a code of the new secret as often as one of the
    old, so a new secret brings no more guesses a year. Guesses about an account that had no secret
    cost nothing, so nobody is born with used-up lanes.

    Args:
        database: The database.
        connection: In the transaction that writes the new secret.
        peer: Whose secret.
        at: The moment, Unix seconds.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
        spent: Whether the steps that were spent are spent of the new secret too, as it may be one
            of before.
    """
    database.lock(connection, f"ledger:{peer}")
    _recount(connection, peer, at, ledger_now(database, connection, clock), rules)
    if not spent:
        connection.execute(_NEW_SECRET, {"peer": peer})
    connection.execute(_NEW_GENERATION, {"peer": peer, "at": int(at)})
