"""The entries under a seal, and the digest over them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, or_, select

from pipelit_agents.audit.numbering import Gaps, Ranges
from pipelit_agents.audit.seal_rows import SealRow, is_formed, iso
from pipelit_agents.database.models import AuditRow

__all__ = [
    "CLOCK_TOLERANCE",
    "MAX_LISTED",
    "START",
    "SealedEntries",
    "conditions",
    "covered_elsewhere",
    "listed",
    "read_ranges",
    "read_sealed",
]

# The digest before the first seal.
START: Final = "0" * 64
# The maximum number of similar entries to name in a message.
MAX_LISTED: Final = 3
# The tolerated difference between clocks, in seconds.
CLOCK_TOLERANCE: Final = 60.0
_PAGE: Final = 1000
_COLUMNS: Final = (
    "id", "at", "actor", "subject", "action", "outcome", "reason", "run", "node", "thread",
)  # fmt: skip


class SealedEntries(NamedTuple):
    """The current entries under one seal.

    Attributes:
        entries: The number of entries.
        digest: The digest over the entries and the seal before them.
        numbers: The numbers of the entries.
        notes: Notes about entries with an odd time.
    """

    entries: int
    digest: str
    numbers: Ranges
    notes: Sequence[str]


def covered_elsewhere(seals: Sequence[SealRow]) -> tuple[Ranges, Ranges]:
    """Return the numbers that a later seal covers or may cover, and those not covered yet."""
    gaps = [Gaps.from_json(seal.gaps) for seal in seals if is_formed(seal)]
    awaited = gaps[-1].awaited if gaps else Ranges()
    return Ranges((*awaited, *(pair for each in gaps for pair in each.late))), awaited


def read_sealed(
    connection: Connection, seal: SealRow, before: str, first: int, elsewhere: Ranges
) -> SealedEntries:
    """Read the current entries of a seal.

    Args:
        connection: A connection in a transaction.
        seal: The seal, which is formed.
        before: The digest of the previous seal.
        first: The last number under the previous seal.
        elsewhere: As ``covered_elsewhere`` returns it.
    """
    late = Gaps.from_json(seal.gaps).late
    return read_ranges(
        connection, before, (*late, (first + 1, seal.last_id)), elsewhere, seal.sealed_at
    )


def read_ranges(
    connection: Connection,
    before: str,
    ranges: Sequence[tuple[int, int]],
    elsewhere: Ranges,
    sealed_at: float,
) -> SealedEntries:
    """Read the current entries with some numbers.

    Args:
        connection: A connection in a transaction.
        before: The digest of the previous seal.
        ranges: The numbers of the entries. The last range is the seal's own; the ranges before it
            are gaps that were filled late.
        elsewhere: Numbers in the seal's own range that other seals cover, or none yet.
        sealed_at: The time of sealing, in Unix seconds.
    """
    digest = hashlib.sha256(b"pipelit-agents/audit/v1\0" + before.encode())
    numbers: list[int] = []
    odd: list[str] = []
    *late, own = ranges
    for row in _entries(connection, late, own):
        number, at = row["id"], row["at"]
        if own[0] <= number and number in elsewhere:
            continue
        for column in _COLUMNS:
            field = _encoded(column, row[column])
            digest.update(len(field).to_bytes(4, "big") + field)
        if row["person"] != "":
            # Left out where it is empty, so that seals from before the column existed stay valid.
            # No number of an entry, which would follow otherwise, is encoded like this.
            field = b"\0person\0" + _encoded("person", row["person"])
            digest.update(len(field).to_bytes(4, "big") + field)
        numbers.append(number)
        # Written as a negation, so that a value that isn't a number counts as odd.
        if not (isinstance(at, int | float) and at <= sealed_at + CLOCK_TOLERANCE):
            odd.append(f"{number}")
    notes = (
        [
            f"{listed(odd)}: dated later than the seal, {iso(sealed_at)}: a clock was ahead, or "
            "the time was changed; pruning uses the seal's time"
        ]
        if odd
        else []
    )
    return SealedEntries(len(numbers), digest.hexdigest(), Ranges.of(numbers), notes)


def _encoded(column: str, value: object) -> bytes:
    """Encode a value of the right type in its one form, and any other in a form of no valid one."""
    if column == "at" and isinstance(value, int | float):
        return repr(float(value)).encode()
    if isinstance(value, int if column == "id" else str):
        return str(value).encode("utf-8", "backslashreplace")
    return f"\0{value!r}".encode()


def _entries(
    connection: Connection, late: Sequence[tuple[int, int]], own: tuple[int, int]
) -> Iterator[RowMapping]:
    query = select(AuditRow.__table__).order_by(AuditRow.id).limit(_PAGE)
    for some in (*conditions(Ranges(late)), AuditRow.id.between(*own)):
        after = 0
        while True:
            found = connection.execute(query.where(some, AuditRow.id > after))
            page = found.mappings().all()
            yield from page
            if len(page) < _PAGE:
                break
            after = page[-1]["id"]


def conditions(ranges: Ranges) -> Iterator[ColumnElement[bool]]:
    """Return SQL conditions for the ranges, each short enough for one statement."""
    pairs = iter(ranges)
    while some := list(islice(pairs, 100)):
        yield or_(*(AuditRow.id.between(low, high) for low, high in some))


def listed(numbers: Sequence[str], count: int | None = None) -> str:
    """Return some entries in words, by their numbers."""
    count = len(numbers) if count is None else count
    shown = ", ".join(numbers[:MAX_LISTED])
    more = f" and {count - MAX_LISTED} more" if count > MAX_LISTED else ""
    return f"entr{'y' if count == 1 else 'ies'} {shown}{more}"
