"""The life of the machine and its clock: what a ledger may have forgotten, and how it knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from pipelit_agents.audit.records import entry, write
from pipelit_agents.database.engine import Database
from pipelit_agents.database.fast_path import Open, Query, Statement
from pipelit_agents.errors import LedgerUnavailable
from pipelit_agents.ledger.attempts import Attempt
from pipelit_agents.ledger.rules import EARLIEST, last_step
from pipelit_agents.protocol.binding import PERIOD

__all__ = ["Forgotten", "Life", "described", "kernels_at", "last_forgotten", "life_of"]

_EPOCH: Final = Statement(
    "UPDATE pipelit_epoch SET boot_id = :boot_id, changed_at = :at, clock_offset = :offset "
    "WHERE id = 1"
)


class _Newest(NamedTuple):
    """The latest moments and the last step in the database; None where there is none."""

    made: float | None
    spent: int | None
    audited: float | None


_NEWEST: Final = Query(
    "SELECT (SELECT max(created_at) FROM pipelit_users) AS made, "
    "(SELECT max(spent_step) FROM pipelit_ledger) AS spent, "
    "(SELECT max(at) FROM (SELECT at FROM pipelit_audit ORDER BY id DESC LIMIT 1000) AS newest) "
    "AS audited",
    _Newest,
)
# A step of the clock by less can't make a code good that was spent before a restart: that takes
# longer.
_LARGEST_STEP: Final = 5.0
_CLOCK: Final = "ledger.clock"
_BOOT: Final = "ledger.boot"
_TWO_KERNELS: Final = "two kernels use the file"


class _Boot(NamedTuple):
    reason: str


_BOOTS: Final = Query(
    "SELECT reason FROM pipelit_audit WHERE subject = 'ledger' AND action = :action "
    "AND at > :since ORDER BY id DESC LIMIT 200",
    _Boot,
)
_CHANGED: Final = re.compile(r"boot id (.{1,8}) after (.{1,8})\Z")
# Boot ids are random, so one that comes back within this time, in seconds, is another kernel's that
# runs beside this one. Longer ago, a volume may have been moved there and back.
_BOTH_WITHIN: Final = 3600.0


class EpochColumns(Protocol):
    """A row with the columns of ``pipelit_epoch``; they are None if the table is empty."""

    @property
    def boot_id(self) -> str | None:
        """The boot of the machine during which the ledger is known to be complete."""

    @property
    def changed_at(self) -> float | None:
        """Since when, Unix seconds."""

    @property
    def clock_offset(self) -> float | None:
        """The wall clock minus the time since the machine's start, where that is known."""


class Life(NamedTuple):
    """By what a ledger notices that commits may have been lost, or that the clock was set.

    Attributes:
        epoch: Names the life of the machine that keeps the database; empty where no commit that
            was confirmed can be lost.
        uptime: Seconds since that machine was started, which no clock setting changes; None where
            that isn't known.
    """

    epoch: Callable[[], str]
    uptime: Callable[[], float] | None


def life_of(
    database: Database,
    clock: Callable[[], float] | None,
    epoch: Callable[[], str] | None,
    uptime: Callable[[], float] | None,
) -> Life:
    """Return by what a ledger notices it, from the optional arguments of the ledger.

    The machine's uptime says nothing about another clock than its own.
    """
    if uptime is None and clock is None:
        uptime = database.uptime
    return Life(epoch or database.epoch, uptime)


class Forgotten(NamedTuple):
    """What a ledger may have forgotten.

    Attributes:
        step: The last time step that may have been spent in commits that a power cut undid.
        unfit: Why no code is accepted at all; empty where one may be.
        kernels: The boot ids of two kernels that use the file at the same time, shortened; empty
            where there is one.
    """

    step: int
    unfit: str = ""
    kernels: tuple[str, ...] = ()

    def require_one_kernel(self, attempt: Attempt) -> None:
        """Refuse to decide where each kernel's checks undo what the other's have established.

        It doesn't depend on the peer or the code, so nobody learns anything from it.

        Raises:
            LedgerUnavailable: Two kernels use the file.
        """
        if self.kernels:
            raise LedgerUnavailable(
                f"nothing is accepted: {described(self.kernels)}: use the file from one of them "
                "only, or use PostgreSQL (setting: PIPELIT_DATABASE_URL)",
                peer=attempt.peer,
                verifier=attempt.verifier,
            )


def described(kernels: Sequence[str]) -> str:
    """Return in words that kernels use one file, by their boot ids."""
    return (
        f"two kernels use this SQLite file, with the boot ids {' and '.join(kernels)}, for example "
        "a virtual machine beside its host, or two nodes with one volume; SQLite's locks and log "
        "don't work between them"
    )


def kernels_at(connection: Open, now: float) -> tuple[str, ...]:
    """Return the boot ids of two kernels that used the file in the last hour, or nothing."""
    rows = _BOOTS.fetch(connection, {"action": _BOOT, "since": now - _BOTH_WITHIN})
    replaced: set[str] = set()
    for row in reversed(rows):
        found = _CHANGED.match(row.reason)
        if found is None:
            continue
        new, old = found.groups()
        if new in replaced:
            return new, old
        replaced.add(old)
    return ()


def _record_boot(connection: Open, verifier: str, new: str, old: str, now: float) -> None:
    written = entry(
        at=now,
        actor=verifier,
        subject="ledger",
        action=_BOOT,
        outcome="ok",
        reason=f"boot id {new[:8] or '-'} after {old[:8] or '-'}",
    )
    write(connection, written)


def last_forgotten(
    connection: Open, row: EpochColumns, life: Life, verifier: str, now: float, window: int
) -> Forgotten:
    """Return what may have been spent in commits that a power cut undid.

    A change is written down: of the machine's life, of the distance between the wall clock and the
    time since the boot, and a moment of change that the clock hasn't reached. From each of them on
    every step that isn't younger is refused, which takes three periods. So it doesn't matter
    whether the clock was right when the machine was started.

    Where the time since the boot isn't known, a clock that is behind what the database has seen
    says nothing about the order of things. Then no code is accepted, and the change is written
    down when the clock is right again.

    Args:
        connection: In the transaction that decides.
        row: With ``boot_id``, ``changed_at`` and ``clock_offset`` as they are in the database.
        life: What tells one life of the machine from another.
        verifier: The verifier, for the audit.
        now: The time by the ledger's clock, in Unix seconds.
        window: How many steps a code may be ahead of the clock: so much of the future may have
            been spent too.
    """
    if now < EARLIEST:
        return Forgotten(last_step(now, window), "the clock is behind")
    boot_id, changed_at = life.epoch(), row.changed_at
    offset = None if life.uptime is None else now - life.uptime()
    if changed_at is not None and row.boot_id == boot_id:
        known = row.clock_offset is not None or offset is None
        moved = 0.0 if offset is None or row.clock_offset is None else offset - row.clock_offset
        if abs(moved) <= _LARGEST_STEP and changed_at <= now + window * PERIOD:
            if not known:
                values = {"boot_id": boot_id, "at": changed_at, "offset": offset}
                _EPOCH.write(connection, values)
            return Forgotten(last_step(changed_at, window))
        why = (
            f"the clock was set by {moved:+.0f} s"
            if abs(moved) > _LARGEST_STEP
            else "the epoch was ahead of the clock"
        )
        _record_clock(connection, verifier, why, now)
    elif offset is None and now < _newest_moment(connection, window):
        return Forgotten(last_step(now, window), "the clock is behind")
    _EPOCH.write(connection, {"boot_id": boot_id, "at": now, "offset": offset})
    kernels: tuple[str, ...] = ()
    if row.boot_id is not None and row.boot_id != boot_id:
        _record_boot(connection, verifier, boot_id, row.boot_id, now)
        kernels = kernels_at(connection, now)
    return Forgotten(last_step(now, window), _TWO_KERNELS if kernels else "", kernels)


def _newest_moment(connection: Open, window: int) -> float:
    ((made, spent, audited),) = _NEWEST.fetch(connection, {})
    # A code may have been ahead of the clock by the window.
    return max(made or 0.0, ((spent or 0) - window) * PERIOD, audited or 0.0)


def _record_clock(connection: Open, verifier: str, why: str, now: float) -> None:
    write(
        connection,
        entry(
            at=now,
            actor=verifier,
            subject="ledger",
            action=_CLOCK,
            outcome="refused",
            reason=why,
        ),
    )
