"""Verify the whole trail: every seal, the entries under it, and those that aren't sealed yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, or_, select
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.audit.numbering import Ranges, highest_number
from pipelit_agents.audit.seal_rows import SealRow, all_seals, is_formed, is_pruned, is_signed
from pipelit_agents.audit.sealed_entries import (
    CLOCK_TOLERANCE,
    MAX_LISTED,
    START,
    SealedEntries,
    conditions,
    covered_elsewhere,
    listed,
    read_sealed,
)
from pipelit_agents.audit.seals import AuditHead
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["AuditReport", "verify"]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of verifying the trail.

    Each entry in the database is counted once: as ``sealed``, ``unsealed``, ``doubtful`` or
    ``outside``.

    Attributes:
        sealed: The number of entries under valid seals.
        unsealed: The number of entries that aren't sealed yet, and so aren't protected.
        pruned: The number of entries that were deleted by a process with the key.
        problems: The signs of changes, each with its position; empty for an intact trail.
        doubtful: The number of entries under seals that aren't valid.
        outside: The number of entries with a number that pipelit-agents never assigned, such as 0,
            a negative one, or one ahead of the sequence. They are problems, and are never sealed.
        notes: Oddities that are no sign of a change, such as an entry from a clock that was ahead.
    """

    sealed: int
    unsealed: int
    pruned: int
    problems: tuple[str, ...]
    doubtful: int = 0
    outside: int = 0
    notes: tuple[str, ...] = ()


def verify(
    database: Database, keyring: Keyring, now: Callable[[], float], heads: Sequence[AuditHead]
) -> AuditReport:
    """Verify every seal; see ``AuditTrail.verify``.

    Args:
        database: The database of the trail.
        keyring: The keys of the seals.
        now: Returns Unix seconds; called in the transaction that reads.
        heads: Heads that were kept.
    """
    sealed = pruned = 0
    problems: list[str] = []
    notes: list[str] = []
    digest, last_id, number = START, 0, 0
    digests = {0: START}
    with database.reading() as connection:
        seals = all_seals(connection)
        numbered = highest_number(connection)
        elsewhere, awaited = covered_elsewhere(seals)
        for seal in seals:
            number += 1
            where = f"seal {seal.number!r:.20} (entries {last_id + 1} to {seal.last_id!r:.20})"
            before = len(problems)
            if not is_formed(seal):
                problems.append(f"{where}: it isn't in the form that pipelit-agents writes")
                continue
            if seal.number != number or seal.last_id < last_id:
                problems.append(f"{where}: a seal before it is missing, or out of order")
                number = seal.number
            if not is_signed(keyring, seal):
                problems.append(f"{where}: was not made with a key of FIELD_ENCRYPTION_KEY")
            try:
                found = read_sealed(connection, seal, digest, last_id, elsewhere)
            except SQLAlchemyError:
                problems.append(f"{where}: an entry can't be read")
                found = SealedEntries(0, "", Ranges(), ())
                if connection.dialect.name != "sqlite":
                    # PostgreSQL ends the transaction on an error, so nothing more can be read.
                    raise
            else:
                if seal.pruned:
                    pruned += seal.entries
                    if found.entries or not is_pruned(keyring, seal):
                        problems.append(f"{where}: was marked as pruned without the key")
                elif (found.entries, found.digest) != (seal.entries, seal.digest):
                    same = found.entries == seal.entries
                    what = "changed or reordered" if same else "removed or added"
                    problems.append(f"{where}: entries were {what}")
            if len(problems) == before:
                sealed += found.entries
                problems += _holes(connection, where, seal, last_id)
                notes += found.notes
            # Continue with the stored digest, so that one change causes only one problem.
            digest, last_id = seal.digest, seal.last_id
            digests[seal.number] = seal.digest
        rest = _Unsealed(connection, last_id, numbered, awaited, now())
        total = connection.scalar(select(func.count()).select_from(AuditRow)) or 0
    problems += rest.problems
    problems += [
        f"seal {head.number} of the head of {head.at} is missing: the newest seals were "
        "deleted, or the trail was replaced"
        for head in heads
        if digests.get(head.number) != head.digest
    ]
    return AuditReport(
        sealed,
        rest.unsealed,
        pruned,
        tuple(problems),
        max(0, total - sealed - rest.unsealed - rest.outside),
        rest.outside,
        (*notes, *rest.notes),
    )


def _holes(connection: Connection, where: str, seal: SealRow, first: int) -> list[str]:
    """Report missing numbers within a seal on SQLite. On PostgreSQL, gaps are normal."""
    if connection.dialect.name != "sqlite" or seal.gaps:
        return []
    if first == 0:
        if seal.pruned:
            return []
        # Old entries may have been deleted before the first seal.
        lowest = connection.scalar(select(func.min(AuditRow.id)).where(AuditRow.id >= 1))
        first = (lowest or 1) - 1
    missing = seal.last_id - first - seal.entries
    if not missing:
        return []
    return [
        f"{where}: {missing} numbers have no entry: before sealing, entries were removed, or one "
        "was planted far ahead"
    ]


class _Unsealed:
    """The entries that no seal covers.

    Args:
        connection: A connection in a transaction.
        last: The last number under a seal.
        highest: The highest number that an entry can have.
        awaited: Numbers below ``last`` that may still get entries.
        now: The current time, in Unix seconds.
    """

    def __init__(
        self, connection: Connection, last: int, highest: int, awaited: Ranges, now: float
    ) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        beyond = or_(AuditRow.id < 1, AuditRow.id > max(last, highest))
        since = [and_(AuditRow.id > last, AuditRow.id <= highest), *conditions(awaited)]
        counting = select(func.count()).select_from(AuditRow)
        self.outside: int = connection.scalar(counting.where(beyond)) or 0
        self.unsealed: int = sum(connection.scalar(counting.where(each)) or 0 for each in since)
        if self.outside:
            named = connection.scalars(
                select(AuditRow.id).where(beyond).order_by(AuditRow.id).limit(MAX_LISTED + 1)
            )
            which = listed([str(each) for each in named], self.outside)
            self.problems.append(
                f"{which}: outside the numbering, so not written by pipelit-agents and never "
                "sealed: look at it, and delete it from pipelit_audit"
            )
        newest = connection.scalar(select(func.max(AuditRow.id)).where(since[0]))
        if connection.dialect.name == "sqlite" and newest is not None:
            lowest = connection.scalar(select(func.min(AuditRow.id)).where(since[0])) or 1
            begin = last or lowest - 1
            missing = newest - begin - self.unsealed
            if missing:
                self.problems.append(
                    f"entries {begin + 1} to {newest}, not sealed yet: {missing} of these numbers "
                    "have no entry: entries were removed, or one was planted far ahead"
                )
        if awaited:
            low, high = awaited.pairs[0][0], awaited.pairs[-1][1]
            self.notes.append(
                f"between {low} and {high}, entries are missing that an open transaction may still "
                "write; they will be sealed after it has ended"
            )
        ahead = [
            str(each)
            for some in since
            for each in connection.scalars(
                select(AuditRow.id)
                .where(some, AuditRow.at > now + CLOCK_TOLERANCE)
                .order_by(AuditRow.id)
                .limit(MAX_LISTED + 1)
            )
        ]
        if ahead:
            self.notes.append(
                f"{listed(ahead)}: not sealed yet, and dated in the future: a clock is or was "
                "ahead, or the time was changed"
            )
