"""The seals of the audit trail: a hash chain with tags under a key that isn't in the database.

Entries are sealed in batches, one batch at a time, and outside the transactions that write them.
Each seal's digest covers its entries and the seal before it. Its tag is an HMAC under a key that is
derived from ``FIELD_ENCRYPTION_KEY``. Without that key, anyone who can write to the tables can't
change, remove, insert or reorder sealed entries undetected. Deletion of the newest seals with their
entries can only be detected if you keep a copy of the chain head elsewhere. Entries that are
written afterwards are sealed as usual.

No transaction waits for the sealer, and the sealer waits for no transaction; see
:mod:`pipelit_agents.audit.numbering`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.audit.numbering import Gaps, OpenGap, Ranges, highest_number, open_transactions
from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow, AuditSealRow
from pipelit_agents.errors import AuditTampered, ConfigurationError
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import AUDIT_PRUNED, AUDIT_SEAL

__all__ = ["AuditHead", "AuditReport", "Seals"]

_LOG: Final = logging.getLogger(__name__)
_START: Final = "0" * 64
_LABEL: Final = AUDIT_SEAL
_PRUNED: Final = AUDIT_PRUNED
_PAGE: Final = 1000
# The maximum number of gaps that wait for open transactions. At the limit, sealing stops before the
# next gap.
_MAX_GAPS: Final = 1000
# The maximum number of similar entries to name in a message.
_MAX_LISTED: Final = 3
# The tolerated difference between clocks, in seconds.
_CLOCK_TOLERANCE: Final = 60.0
_COLUMNS: Final = (
    "id", "at", "actor", "subject", "action", "outcome", "reason", "run", "node", "thread",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The chain head: the newest seal. Store it where the database's users can't write.

    Attributes:
        number: The seal's number, from 1; 0 if nothing is sealed.
        last_id: The last entry that the seal covers.
        digest: 64 hexadecimal digits, over all entries up to this one.
        at: The time of sealing, ISO 8601 in UTC.
    """

    number: int
    last_id: int
    digest: str
    at: str

    def to_json(self) -> str:
        """Return the head as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> AuditHead:
        """Parse the result of :meth:`to_json`.

        Raises:
            ConfigurationError: The line has another form.
        """
        try:
            fields = json.loads(line)
            head = cls(**fields)
            types = tuple(type(value) for value in fields.values())
        except (TypeError, ValueError):
            types = ()
        if types != (int, int, str, str):
            raise ConfigurationError(
                "the head can't be read: it must be a line that `audit head` printed"
            )
        return head


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


class _Seal(NamedTuple):
    """A seal to add, and the seal that it follows."""

    after: Any
    number: int
    last_id: int
    entries: int
    digest: str
    gaps: str


class Seals:
    """Seal and verify the trail of one database.

    Args:
        database: The database of the trail.
        keyring: Returns the keyring for the seals' tags; called when it is needed.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, database: Database, keyring: Callable[[], Keyring], clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def seal(self, batch: int) -> int:
        """Seal the new entries; see :meth:`AuditTrail.seal`."""
        keyring, until, total = self._keyring(), self.newest_number(), 0
        while (sealed := self._seal_batch(keyring, until, batch)) is not None:
            total += sealed
        return total

    def newest_number(self) -> int:
        """Return the highest number that pipelit-agents assigned to an entry, or 0."""
        with self._database.reading() as connection:
            return _settled(connection)

    def head(self) -> AuditHead:
        """Return the newest seal."""
        with self._database.reading() as connection:
            last = _last(connection)
        if last is None:
            return AuditHead(0, 0, _START, _iso(0.0))
        if not _is_formed(last):
            raise _tampered(last)
        return AuditHead(last.number, last.last_id, last.digest, _iso(last.sealed_at))

    def verify(self, heads: Sequence[AuditHead]) -> AuditReport:
        """Verify every seal; see :meth:`AuditTrail.verify`."""
        keyring = self._keyring()
        sealed = pruned = 0
        problems: list[str] = []
        notes: list[str] = []
        digest, last_id, number = _START, 0, 0
        digests = {0: _START}
        with self._database.reading() as connection:
            seals = list(connection.execute(_seals()))
            numbered = highest_number(connection)
            elsewhere, awaited = _covered_elsewhere(seals)
            for seal in seals:
                number += 1
                where = f"seal {seal.number!r:.20} (entries {last_id + 1} to {seal.last_id!r:.20})"
                before = len(problems)
                if not _is_formed(seal):
                    problems.append(f"{where}: it isn't in the form that pipelit-agents writes")
                    continue
                if seal.number != number or seal.last_id < last_id:
                    problems.append(f"{where}: a seal before it is missing, or out of order")
                    number = seal.number
                if not _is_tagged(keyring, seal, _LABEL, seal.mac):
                    problems.append(f"{where}: was not made with a key of FIELD_ENCRYPTION_KEY")
                try:
                    found = _read(connection, seal, digest, last_id, elsewhere)
                except SQLAlchemyError:
                    problems.append(f"{where}: an entry can't be read")
                    found = _Read(0, "", Ranges(), ())
                    if connection.dialect.name != "sqlite":
                        # PostgreSQL ends the transaction on an error, so nothing more can be read.
                        raise
                else:
                    if seal.pruned:
                        pruned += seal.entries
                        if found.entries or not _is_tagged(keyring, seal, _PRUNED, seal.pruned):
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
            rest = _Unsealed(connection, last_id, numbered, awaited, self._clock())
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

    def prune(self, before: float) -> int:
        """Delete sealed entries in whole batches; see :meth:`AuditTrail.prune`."""
        keyring, total = self._keyring(), 0
        with self._database.reading() as connection:
            seals = list(connection.execute(_seals()))
            upto, broken = self._last_older(connection, seals, before)
        # Entries that arrive late from now on belong to gaps that are already recorded.
        elsewhere, _ = _covered_elsewhere(seals)
        first, digest, number = 0, _START, 0
        while number < upto:
            with self._database.writing(durable=True) as connection:
                self._database.lock(connection, "audit:seal")
                seal = connection.execute(
                    _seals().where(AuditSealRow.number > number).limit(1)
                ).one_or_none()
                if seal is None:
                    return total
                if not _is_formed(seal) or not _is_tagged(keyring, seal, _LABEL, seal.mac):
                    raise _tampered(seal)
                found = _read(connection, seal, digest, first, elsewhere)
                if seal.pruned:
                    if found.entries or not _is_tagged(keyring, seal, _PRUNED, seal.pruned):
                        raise _tampered(seal)
                elif (found.entries, found.digest) != (seal.entries, seal.digest):
                    raise _tampered(seal)
                else:
                    for some in _some(found.numbers):
                        connection.execute(delete(AuditRow).where(some))
                    tag = keyring.mac(_PRUNED, *_tagged(seal))
                    connection.execute(
                        update(AuditSealRow)
                        .where(AuditSealRow.number == seal.number)
                        .values(pruned=tag)
                    )
                    total += seal.entries
            first, digest, number = seal.last_id, seal.digest, seal.number
        if broken is not None:
            raise _tampered(broken)
        return total

    def _last_older(
        self, connection: Connection, seals: Sequence[Any], before: float
    ) -> tuple[int, Any]:
        """Return the last seal whose entries, and all entries before, are older than a given time.

        The order of the entries is certain, but their times depend on clocks. A time in the future
        is ignored: its batch is as old as the next batch with a usable time. If only some entries
        are later than their seal, their clock was ahead, and the seal's time counts. The seal's
        time also counts if all entries are dated before the previous batch, because then their
        clock was behind.

        Returns:
            The seal's number, or 0; and the next seal if it is malformed, or None.
        """
        found, first, newest, now = 0, 0, float("-inf"), self._clock()
        # Keep the newest batch, so that no new entry gets the number of a deleted one.
        for seal in seals[:-1]:
            if not _is_formed(seal):
                return found, seal
            within = and_(AuditRow.id > first, AuditRow.id <= seal.last_id)
            at, sealed_at = AuditRow.at, float(seal.sealed_at)
            by_seal, by_now, ahead = connection.execute(
                select(
                    func.max(case((at <= sealed_at, at))),
                    func.max(case((at <= now, at))),
                    func.count(case((at > sealed_at, 1))),
                ).where(within)
            ).one()
            is_plausible = newest <= sealed_at <= now
            if by_now is not None and by_now < newest - _CLOCK_TOLERANCE:
                # All entries are dated before the entries that precede them.
                dated = sealed_at if is_plausible else None
            elif ahead and by_seal is not None and is_plausible:
                dated = sealed_at
            else:
                dated = by_now
            if isinstance(dated, int | float):
                newest = max(newest, dated)
                if newest >= before:
                    break
                found = seal.number
            first = seal.last_id
        return found, None

    def retag(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
        """Replace tags under an older key with tags under the newest key.

        Args:
            keyring: The keys.
            only_count: Count the seals without changing them.

        Returns:
            The number of seals with a tag under the newest key, under an older key, and under none
            of the keys.
        """
        newest = older = foreign = 0
        with self._database.reading() as connection:
            numbers = list(connection.scalars(select(AuditSealRow.number)))
        for number in numbers:
            with self._database.writing(durable=not only_count) as connection:
                self._database.lock(connection, "audit:seal")
                seal = connection.execute(
                    _seals().where(AuditSealRow.number == number)
                ).one_or_none()
                state, tags = _state(keyring, seal)
                newest += state == "newest" or (state == "older" and not only_count)
                older += state == "older" and only_count
                foreign += state == "foreign"
                if state == "older" and not only_count:
                    connection.execute(
                        update(AuditSealRow).where(AuditSealRow.number == number).values(tags)
                    )
        return newest, older, foreign

    def _seal_batch(self, keyring: Keyring, until: int, batch: int) -> int | None:
        """Seal the next entries, and return their number; None if there is nothing to seal."""
        while True:
            seal = self._next_seal(keyring, until, batch)
            if seal is None:
                return None
            if self._add(keyring, seal):
                return seal.entries

    def _next_seal(self, keyring: Keyring, until: int, batch: int) -> _Seal | None:
        # This holds no lock. It is correct because of its order: it reads the newest seal, then
        # the open transactions, then the entries. A missing entry can then only be written by one
        # of these transactions, or never.
        with self._database.reading() as connection:
            last = _last(connection)
            if last is not None and not (
                _is_formed(last) and _is_tagged(keyring, last, _LABEL, last.mac)
            ):
                raise _tampered(last)
            writers = open_transactions(connection)
        known = Gaps.from_json(last.gaps) if last else Gaps()
        first, number, before = (last.last_id, last.number, last.digest) if last else (0, 0, _START)
        with self._database.reading() as connection:
            late = [
                each
                for some in _some(known.awaited)
                for each in connection.scalars(select(AuditRow.id).where(some))
            ]
            fresh = connection.scalars(
                select(AuditRow.id)
                .where(AuditRow.id > first, AuditRow.id <= until)
                .order_by(AuditRow.id)
                .limit(batch)
            ).all()
            still = [
                OpenGap(left, by)
                for gap in known.open
                if (by := writers.of(gap.by)) and (left := gap.numbers.without(late))
            ]
            last_id = fresh[-1] if fresh else first
            if writers.every and fresh:
                room = max(0, _MAX_GAPS - sum(len(gap.numbers) for gap in still))
                missing = Ranges([(first + 1, last_id)]).without(fresh)
                if len(missing) > room:
                    last_id = missing.pairs[room][0] - 1
                    missing = Ranges(missing.pairs[:room])
                    _LOG.warning(
                        "audit: entries from %d on aren't sealed yet: too many numbers wait for "
                        "open transactions; look in pg_locks for virtualtransaction %s",
                        last_id + 1,
                        ", ".join(writers.every[:_MAX_LISTED]),
                    )
                if missing:
                    still.append(OpenGap(missing, writers.every))
            gaps = Gaps(Ranges.of(late), tuple(still))
            if last_id == first and not late and gaps.open == known.open:
                return None
            stored = gaps.to_json()
            read = _read_ranges(
                connection, before, (*gaps.late, (first + 1, last_id)), Ranges(), float("inf")
            )
        return _Seal(last, number + 1, last_id, read.entries, read.digest, stored)

    def _add(self, keyring: Keyring, seal: _Seal) -> bool:
        """Add a seal, and return True; False if another seal was added in the meantime."""
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, "audit:seal")
            last = _last(connection)
            if (last and (last.number, last.digest)) != (
                seal.after and (seal.after.number, seal.after.digest)
            ):
                return False
            signed = {
                "number": seal.number,
                "last_id": seal.last_id,
                "entries": seal.entries,
                "digest": seal.digest,
                "sealed_at": float(self._clock()),
            }
            tag = keyring.mac(_LABEL, *_tag_fields(**signed, gaps=seal.gaps))
            row = signed | {"mac": tag, "gaps": seal.gaps}
            connection.execute(insert(AuditSealRow).values(row))
        return True


def _seals() -> Any:
    return select(AuditSealRow.__table__).order_by(AuditSealRow.number)


def _last(connection: Connection) -> Any:
    newest = select(AuditSealRow.__table__).order_by(AuditSealRow.number.desc()).limit(1)
    return connection.execute(newest).one_or_none()


def _is_formed(seal: Any) -> bool:
    numbers = all(
        type(each) is int and each >= 0 for each in (seal.number, seal.last_id, seal.entries)
    )
    texts = all(
        isinstance(each, str) and each.isascii()
        for each in (seal.digest, seal.mac, seal.pruned, seal.gaps)
    )
    if not (numbers and texts and isinstance(seal.sealed_at, int | float)):
        return False
    try:
        Gaps.from_json(seal.gaps)
    except ValueError:
        return False
    return True


def _tampered(seal: Any) -> AuditTampered:
    return AuditTampered(
        f"seal {seal.number!r:.20} doesn't match its entries, so no entries from there on are "
        "sealed or deleted; see: pipelit-agents audit verify"
    )


def _state(keyring: Keyring, seal: Any) -> tuple[str, dict[str, str]]:
    if seal is None or not _is_formed(seal):
        return "foreign", {}
    fields = _tagged(seal)
    tags = {"mac": keyring.mac(_LABEL, *fields)}
    if seal.pruned:
        tags["pruned"] = keyring.mac(_PRUNED, *fields)
    if all(hmac.compare_digest(getattr(seal, name), tag) for name, tag in tags.items()):
        return "newest", tags
    whole = _is_tagged(keyring, seal, _LABEL, seal.mac) and (
        not seal.pruned or _is_tagged(keyring, seal, _PRUNED, seal.pruned)
    )
    return ("older" if whole else "foreign"), tags


class _Read(NamedTuple):
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


def _covered_elsewhere(seals: Sequence[Any]) -> tuple[Ranges, Ranges]:
    """Return the numbers that a later seal covers or may cover, and those not covered yet."""
    gaps = [Gaps.from_json(seal.gaps) for seal in seals if _is_formed(seal)]
    awaited = gaps[-1].awaited if gaps else Ranges()
    return Ranges((*awaited, *(pair for each in gaps for pair in each.late))), awaited


def _read(connection: Connection, seal: Any, before: str, first: int, elsewhere: Ranges) -> _Read:
    late = Gaps.from_json(seal.gaps).late
    return _read_ranges(
        connection, before, (*late, (first + 1, seal.last_id)), elsewhere, seal.sealed_at
    )


def _read_ranges(
    connection: Connection,
    before: str,
    ranges: Sequence[tuple[int, int]],
    elsewhere: Ranges,
    sealed_at: float,
) -> _Read:
    """Read the entries of a seal.

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
        if own[0] <= row.id and row.id in elsewhere:
            continue
        for column in _COLUMNS:
            value = getattr(row, column)
            # Encode a value of the right type in its one form, and any other value in a form that
            # no valid value has.
            if column == "at" and isinstance(value, int | float):
                field = repr(float(value)).encode()
            elif isinstance(value, int if column == "id" else str):
                field = str(value).encode("utf-8", "backslashreplace")
            else:
                field = f"\0{value!r}".encode()
            digest.update(len(field).to_bytes(4, "big") + field)
        numbers.append(row.id)
        # Written as a negation, so that a value that isn't a number counts as odd.
        if not (isinstance(row.at, int | float) and row.at <= sealed_at + _CLOCK_TOLERANCE):
            odd.append(f"{row.id}")
    notes = (
        [
            f"{_listed(odd)}: dated later than the seal, {_iso(sealed_at)}: a clock was ahead, or "
            "the time was changed; pruning uses the seal's time"
        ]
        if odd
        else []
    )
    return _Read(len(numbers), digest.hexdigest(), Ranges.of(numbers), notes)


def _entries(
    connection: Connection, late: Sequence[tuple[int, int]], own: tuple[int, int]
) -> Iterator[Any]:
    query = select(AuditRow.__table__).order_by(AuditRow.id).limit(_PAGE)
    for some in (*_some(Ranges(late)), AuditRow.id.between(*own)):
        after = 0
        while True:
            page: Sequence[Any] = connection.execute(query.where(some, AuditRow.id > after)).all()
            yield from page
            if len(page) < _PAGE:
                break
            after = page[-1].id


def _some(ranges: Ranges) -> Iterator[Any]:
    """Return SQL conditions for the ranges, each short enough for one statement."""
    pairs = iter(ranges)
    while some := list(islice(pairs, 100)):
        yield or_(*(AuditRow.id.between(low, high) for low, high in some))


def _settled(connection: Connection) -> int:
    """Return the current highest number of an entry. Later entries are sealed the next time."""
    # Take the snapshot first, so that the numbering isn't older than it.
    _last(connection)
    highest = highest_number(connection)
    within = select(func.max(AuditRow.id)).where(AuditRow.id >= 1, AuditRow.id <= highest)
    return connection.scalar(within) or 0


def _holes(connection: Connection, where: str, seal: Any, first: int) -> list[str]:
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
        since = [and_(AuditRow.id > last, AuditRow.id <= highest), *_some(awaited)]
        counting = select(func.count()).select_from(AuditRow)
        self.outside: int = connection.scalar(counting.where(beyond)) or 0
        self.unsealed: int = sum(connection.scalar(counting.where(each)) or 0 for each in since)
        if self.outside:
            named = connection.scalars(
                select(AuditRow.id).where(beyond).order_by(AuditRow.id).limit(_MAX_LISTED + 1)
            )
            which = _listed([str(each) for each in named], self.outside)
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
                .where(some, AuditRow.at > now + _CLOCK_TOLERANCE)
                .order_by(AuditRow.id)
                .limit(_MAX_LISTED + 1)
            )
        ]
        if ahead:
            self.notes.append(
                f"{_listed(ahead)}: not sealed yet, and dated in the future: a clock is or was "
                "ahead, or the time was changed"
            )


def _listed(numbers: Sequence[str], count: int | None = None) -> str:
    count = len(numbers) if count is None else count
    shown = ", ".join(numbers[:_MAX_LISTED])
    more = f" and {count - _MAX_LISTED} more" if count > _MAX_LISTED else ""
    return f"entr{'y' if count == 1 else 'ies'} {shown}{more}"


def _tagged(seal: Any) -> list[bytes]:
    names = ("number", "last_id", "entries", "digest")
    fields = {name: getattr(seal, name) for name in names}
    return _tag_fields(**fields, sealed_at=float(seal.sealed_at), gaps=seal.gaps)


def _tag_fields(*, gaps: str, **signed: Any) -> list[bytes]:
    # Leave out empty gaps, so that tags from before the column existed stay valid.
    return [str(value).encode() for value in (*signed.values(), *([gaps] if gaps else []))]


def _is_tagged(keyring: Keyring, seal: Any, label: str, tag: str) -> bool:
    found = False
    for each in keyring.macs(label, *_tagged(seal)):
        found |= hmac.compare_digest(each, tag)
    return found


def _iso(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat()
    except (OverflowError, ValueError):
        # The time is outside the calendar.
        return repr(float(at))
