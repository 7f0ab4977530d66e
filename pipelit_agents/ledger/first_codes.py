"""The limit on the first codes of a person's enrolments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import Connection

from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Query, Statement
from pipelit_agents.ledger.common import ledger_now
from pipelit_agents.ledger.rules import Lane, Rules

__all__ = ["charge_first_code", "wait_for_first_code"]


class _FirstCodes(NamedTuple):
    whole_at: float


_FIRST_CODES: Final = Query(
    "SELECT whole_at FROM pipelit_ledger WHERE peer = :peer AND scope = 'first' AND subject = ''",
    _FirstCodes,
)
_CHARGE_FIRST_CODE: Final = Statement(
    "INSERT INTO pipelit_ledger (peer, scope, subject, version, in_a_row, recent, locked_until, "
    "spent_step, whole_at) VALUES (:peer, 'first', '', 1, 0, '', 0, -1, :whole_at) "
    "ON CONFLICT (peer, scope, subject) DO UPDATE SET whole_at = excluded.whole_at"
)


def wait_for_first_code(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    rules: Rules,
    clock: Callable[[], float] | None = None,
) -> float:
    """Return the seconds until a first code of a person's enrolment may be evaluated; 0 for now.

    Args:
        database: The database.
        connection: In the transaction that evaluates it.
        peer: The person.
        rules: The limits.
        clock: The ledger's clock, if it isn't the database server's or the machine's.
    """
    database.lock(connection, f"ledger:{peer}")
    now = ledger_now(database, connection, clock)
    return max(0.0, rules.wait(1, _first_codes(connection, peer, rules, now), now, "first"))


def charge_first_code(
    database: Database,
    connection: Connection,
    peer: str,
    *,
    rules: Rules,
    clock: Callable[[], float] | None = None,
) -> None:
    """Count a wrong first code of a person's enrolment; the arguments are the same."""
    now = ledger_now(database, connection, clock)
    lane = _first_codes(connection, peer, rules, now)
    values = {"peer": peer, "whole_at": rules.charged(lane, now, "first")}
    _CHARGE_FIRST_CODE.write(connection, values)


def _first_codes(connection: Connection, peer: str, rules: Rules, now: float) -> Lane:
    rows = _FIRST_CODES.fetch(connection, {"peer": peer})
    lane = Lane(whole_at=rows[0].whole_at) if rows else Lane()
    return rules.seen(lane, now, "first")
