"""How the entries of the audit trail are numbered, and which numbers may still get an entry.

SQLite gives each entry the next number, so there are no gaps. PostgreSQL takes the number from a
sequence before the entry is committed. A transaction that rolls back leaves a permanent gap. An
open transaction leaves a gap that it may fill later. A seal never waits for such a transaction. It
records the gap and the transactions that may fill it, and a later seal covers the late entries.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, text

from pipelit_agents.errors import ConfigurationError

__all__ = [
    "Gaps",
    "OpenGap",
    "OpenTransactions",
    "Ranges",
    "highest_number",
    "highest_number_in_sqlite",
    "open_transactions",
]

# Less than 2**40 ahead of the last sealed entry, so that a row that was planted at a higher number
# doesn't affect the numbering. (After 2**63 - 1, SQLite would choose random numbers.) The bounds
# limit the effect of a planted seal.
_HIGHEST_IN_SQLITE: Final = (
    "(max(0, min(2305843009213693952, coalesce((SELECT last_id FROM pipelit_audit_seals "
    "ORDER BY number DESC LIMIT 1), 0))) + 1099511627775)"
)
# The last number is NULL without the privilege to read the sequence.
_SEQUENCE: Final = text(
    "SELECT CASE WHEN has_sequence_privilege(q.name, 'USAGE, SELECT') "
    "THEN coalesce(pg_sequence_last_value(q.name), 0) END AS last, s.seqcache AS cache "
    "FROM (SELECT pg_get_serial_sequence('pipelit_audit', 'id')::regclass AS name) q "
    "LEFT JOIN pg_sequence s ON s.seqrelid = q.name"
)
_UNKNOWN: Final = 2**62
# An INSERT takes this lock before it draws a number, and holds it until its transaction ends. The
# view pg_locks shows the holders, and reading it blocks no transaction.
_OPEN: Final = text(
    "SELECT DISTINCT virtualtransaction, pid FROM pg_locks WHERE locktype = 'relation' AND granted "
    "AND relation = 'pipelit_audit'::regclass AND mode = 'RowExclusiveLock' "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def highest_number_in_sqlite() -> str:
    """Return SQL for the highest number that SQLite's next entry may follow."""
    return _HIGHEST_IN_SQLITE


def highest_number(connection: Connection) -> int:
    """Return the highest number that an entry can have at present.

    Args:
        connection: A connection in a transaction that already has its snapshot.

    Raises:
        ConfigurationError: PostgreSQL assigns numbers out of order, because the sequence was
            changed.
    """
    if connection.dialect.name == "sqlite":
        return int(connection.scalar(text(f"SELECT {_HIGHEST_IN_SQLITE}")))
    sequence = connection.execute(_SEQUENCE).one()
    if sequence.cache not in (None, 1):
        raise ConfigurationError(
            f"the sequence of pipelit_audit.id has CACHE {sequence.cache}, so entries can't be "
            "sealed in order: run ALTER SEQUENCE pipelit_audit_id_seq CACHE 1, and restart all "
            "processes"
        )
    return _UNKNOWN if sequence.last is None else int(sequence.last)


class OpenTransactions(NamedTuple):
    """Open transactions that have written entries, or may have.

    Attributes:
        every: Their names in ``pg_locks``.
        prepared: The ones that wait for ``COMMIT PREPARED``. They may have had another name before.
    """

    every: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which earlier transactions are still open, by their current names."""
        left = set(names) & set(self.every)
        if len(left) < len(names):
            left.update(self.prepared)
        return tuple(sorted(left))


def open_transactions(connection: Connection) -> OpenTransactions:
    """Return the transactions whose entries may not be visible yet."""
    if connection.dialect.name == "sqlite":
        # SQLite has one writer at a time, which commits before the next one draws a number.
        return OpenTransactions()
    found = connection.execute(_OPEN).all()
    return OpenTransactions(
        tuple(sorted({row.virtualtransaction for row in found})),
        tuple(sorted({row.virtualtransaction for row in found if row.pid is None})),
    )


class Ranges:
    """A set of whole numbers, stored as ranges.

    Args:
        pairs: The lowest and highest number of each range, in any order. Ranges may overlap.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted(pairs):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        self.pairs: Final = tuple(merged)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Ranges:
        """Create ranges from single numbers."""
        return cls((number, number) for number in numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.pairs == other.pairs

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __contains__(self, number: int) -> bool:
        found = bisect_right(self.pairs, number, key=lambda pair: pair[0])
        return found > 0 and number <= self.pairs[found - 1][1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def without(self, numbers: Iterable[int]) -> Ranges:
        """Return these ranges without some numbers."""
        left: list[tuple[int, int]] = []
        taken = sorted(set(numbers))
        for low, high in self.pairs:
            begin = low
            for number in taken[bisect_right(taken, low - 1) : bisect_right(taken, high)]:
                if begin < number:
                    left.append((begin, number - 1))
                begin = number + 1
            if begin <= high:
                left.append((begin, high))
        return Ranges(left)


@dataclass(frozen=True)
class OpenGap:
    """Numbers without an entry, and the transactions that may have drawn them."""

    numbers: Ranges
    by: tuple[str, ...]


@dataclass(frozen=True)
class Gaps:
    """What a seal records about gaps.

    Attributes:
        late: Numbers in the range of earlier seals whose entries this seal covers.
        open: Gaps that may still be filled.
    """

    late: Ranges = field(default_factory=Ranges)
    open: tuple[OpenGap, ...] = ()

    @property
    def awaited(self) -> Ranges:
        """All numbers that may still get an entry."""
        return Ranges(pair for gap in self.open for pair in gap.numbers)

    def to_json(self) -> str:
        """Return the stored form; an empty string if there is no gap."""
        if not self.late and not self.open:
            return ""
        opened = [{"ids": gap.numbers.pairs, "by": gap.by} for gap in self.open]
        return json.dumps({"late": self.late.pairs, "open": opened}, separators=(",", ":"))

    @classmethod
    def from_json(cls, stored: str) -> Gaps:
        """Parse the result of ``to_json``.

        Raises:
            ValueError: The text has another form.
        """
        if not stored:
            return cls()
        try:
            fields: Any = json.loads(stored)
            opened = [OpenGap(_ranges(each["ids"]), tuple(each["by"])) for each in fields["open"]]
            gaps = cls(_ranges(fields["late"]), tuple(opened))
        except (KeyError, TypeError, ValueError, RecursionError):
            gaps = cls()
        # Accept only the one form that to_json writes.
        if gaps.to_json() != stored:
            raise ValueError("these aren't the gaps of a seal")
        return gaps


def _ranges(pairs: Any) -> Ranges:
    if not all(type(each) is int for pair in pairs for each in pair):
        raise ValueError("a range needs two whole numbers")
    return Ranges((low, high) for low, high in pairs)
