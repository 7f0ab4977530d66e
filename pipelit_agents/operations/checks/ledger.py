"""Checks of the ledger: whether attempts are counted, its clock, and its locks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, select, text

from pipelit_agents.database.models import AuditRow, EpochRow, LedgerRow, UserRow
from pipelit_agents.ledger.attempts import is_person
from pipelit_agents.ledger.clock_trouble import clock_trouble
from pipelit_agents.ledger.common import ledger_now
from pipelit_agents.ledger.lanes import lane_name
from pipelit_agents.ledger.machine import described, kernels_at
from pipelit_agents.ledger.redis_url import connect, named_errors
from pipelit_agents.ledger.rules import EARLIEST, Lane, Rules, class_of
from pipelit_agents.operations.checks.deployment import Deployment, deployment_check
from pipelit_agents.operations.checks.finding import Finding, NotApplicable, listed, passed
from pipelit_agents.policy import YEAR

__all__ = ["attempts", "clock", "locked_lanes", "moments"]

# Seconds.
_MAX_CLOCK_DIFFERENCE: Final = 2.0
# Seconds. Codes are valid for up to a minute before and after their time.
_MAX_TIME_AHEAD: Final = 60.0
_SET_CLOCK: Final = "timedatectl set-ntp true"


@deployment_check("ledger", why="no code is accepted if attempts can't be counted", always=True)
def attempts(deployment: Deployment) -> Finding:
    """Attempts can be counted, and only one machine counts in an SQLite file."""
    installed = deployment.installed
    where = installed.check_ledger()
    with deployment.reading() as connection:
        now = ledger_now(installed.database, connection, deployment.now)
        kernels = kernels_at(connection, now)
    if kernels:
        return Finding(described(kernels), "use the file from only one of them, or use PostgreSQL")
    return passed(f"attempts are counted in {where}")


@deployment_check("clock", why="a code is valid for half a minute", always=True)
def clock(deployment: Deployment) -> Finding:
    """This machine's clock agrees with the server's that counts attempts."""
    if url := deployment.redis_url():
        with named_errors(url):
            client = connect(url)
            try:
                before = deployment.now()
                seconds, micro = client.time()
                there = seconds + micro / 1e6
            finally:
                client.close()
    elif deployment.is_sqlite:
        raise NotApplicable("there is only one clock")
    else:
        query = text(f"SELECT {deployment.installed.database.server_clock}")
        with deployment.reading() as connection:
            before = deployment.now()
            there = connection.scalar(query) or 0.0
    apart = there - (before + deployment.now()) / 2
    if abs(apart) > _MAX_CLOCK_DIFFERENCE:
        return Finding(f"the server's clock differs from this one by {apart:+.1f} s", _SET_CLOCK)
    return passed(f"{apart:+.2f} s apart")


@deployment_check(
    "moments",
    why="after a time ahead of the clock, codes are refused until the clock reaches it",
    always=True,
)
def moments(deployment: Deployment) -> Finding:
    """Nothing is stored with a time that this clock hasn't reached."""
    now, rules = _now(deployment), Rules(deployment.policy)
    if now < EARLIEST:
        return Finding(f"this clock shows {datetime.fromtimestamp(now, UTC):%Y-%m-%d}", _SET_CLOCK)
    with deployment.reading() as connection:
        newest = connection.scalar(select(AuditRow.at).order_by(AuditRow.id.desc()).limit(1))
        changed_at = connection.scalar(select(EpochRow.changed_at))
        forever = select(UserRow.username).where(
            UserRow.active,
            UserRow.totp_previous.is_not(None),
            UserRow.totp_previous_until > now + YEAR,
        )
        kept = list(connection.scalars(forever.order_by(UserRow.username)))
    ahead = sorted(
        {
            row.peer
            for row, person in _lanes(deployment)
            if clock_trouble(row, rules, now, person=person)
        }
    )
    if kept:
        return Finding(
            f"the old TOTP secret of {listed(kept)} stays valid for more than a year",
            f"pipelit-agents agents rotate-totp {kept[0]}",
        )
    if changed_at is not None and changed_at > now + _MAX_TIME_AHEAD:
        return Finding(
            "the clock was ahead when this machine was started; the next verification of a "
            "code repairs that, and no code is accepted for three periods",
            "pipelit-agents audit --action ledger.clock, to see whether it did",
        )
    if ahead:
        return Finding(
            f"the clock was ahead, and failures from then still count for {listed(ahead)}",
            f"pipelit-agents agents unlock {ahead[0]}",
        )
    if newest is not None and newest > now + _MAX_TIME_AHEAD:
        return Finding(
            f"the newest audit entry is {newest - now:.0f} s ahead of this clock: the clock is "
            "behind, or it was ahead",
            _SET_CLOCK,
        )
    return passed()


@deployment_check("lanes", why="somebody is guessing codes, or makes many mistakes", always=True)
def locked_lanes(deployment: Deployment) -> Finding:
    """No lane is locked."""
    now, rules = _now(deployment), Rules(deployment.policy)
    rows = _lanes(deployment, LedgerRow.locked_until > now)
    locked = [
        (row.peer, lane_name(row.scope, row.subject))
        for row, person in rows
        if rules.seen(
            Lane(row.in_a_row, (), row.locked_until), now, class_of(row.scope, person=person)
        ).locked_until
        > now
    ]
    if not locked:
        return passed()
    name, lane = locked[0]
    found = f"{len(locked)} locked: {listed(f'{lane} about {name}' for name, lane in locked)}"
    if not any(rules.forgives(Lane(whole_at=row.whole_at), now) for row, _ in rows):
        return Finding(
            found,
            "find out who is guessing: pipelit-agents audit --action lane.lock. A lane that "
            "has used up its wrong guesses for the year can't be unlocked: it unlocks by "
            f"itself, when pipelit-agents agents lanes {name} says",
        )
    return Finding(
        found,
        "find out who is guessing: pipelit-agents audit --action lane.lock; when that is "
        f"settled: pipelit-agents agents unlock {name} --lane {lane}",
    )


def _now(deployment: Deployment) -> float:
    """Return the moment by the clock that the ledger decides with."""
    with deployment.reading() as connection:
        return ledger_now(deployment.installed.database, connection, deployment.clock)


def _lanes(deployment: Deployment, *where: ColumnElement[bool]) -> list[tuple[Any, bool]]:
    """Return the ledger rows of active accounts, and whether each is a person's."""
    query = (
        select(LedgerRow.__table__, UserRow.kind, UserRow.domain)
        .join(UserRow, UserRow.username == LedgerRow.peer)
        .where(UserRow.active, *where)
        .order_by(LedgerRow.peer, LedgerRow.scope, LedgerRow.subject)
    )
    with deployment.reading() as connection:
        return [(row, is_person(row)) for row in connection.execute(query)]
