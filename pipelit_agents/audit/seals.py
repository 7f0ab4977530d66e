"""The seals of the audit trail: a hash chain with tags under a key that isn't in the database.

Entries are sealed in batches, one batch at a time, and outside the transactions that write them.
Each seal's digest covers its entries and the seal before it. Its tag is an HMAC under a key that is
derived from ``FIELD_ENCRYPTION_KEY``. Without that key, anyone who can write to the tables can't
change, remove, insert or reorder sealed entries undetected. Deletion of the newest seals with their
entries can only be detected if you keep a copy of the chain head elsewhere. Entries that are
written afterwards are sealed as usual.

No transaction waits for the sealer, and the sealer waits for no transaction; see
``pipelit_agents.audit.numbering``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from pipelit_agents.audit.numbering import Gaps, OpenGap, Ranges, highest_number, open_transactions
from pipelit_agents.audit.seal_rows import (
    SealRow,
    is_formed,
    is_signed,
    iso,
    last_seal,
    seal_at,
    sign,
    tag_state,
    tampered,
)
from pipelit_agents.audit.sealed_entries import MAX_LISTED, START, conditions, read_ranges
from pipelit_agents.database.engine import Database
from pipelit_agents.database.key_row import check_fitting, fitting_keyring
from pipelit_agents.database.models import AuditRow, AuditSealRow
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["AuditHead", "Seals"]

_LOG: Final = logging.getLogger(__name__)
# The maximum number of gaps that wait for open transactions. At the limit, sealing stops before the
# next gap.
_MAX_GAPS: Final = 1000


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
        """Parse the result of ``to_json``.

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


class _Unsigned(NamedTuple):
    """A seal without its time and tag, and the seal that it follows."""

    after: SealRow | None
    row: SealRow


class Seals:
    """Seal the trail of one database.

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
        """Seal the new entries; see ``AuditTrail.seal``."""
        keyring = self._keyring()
        with self._database.reading() as connection:
            # Before the newest seal is verified: another key isn't a sign of a change.
            check_fitting(connection, keyring)
        until, total = self.newest_number(), 0
        while (sealed := self._seal_batch(keyring, until, batch)) is not None:
            total += sealed
        return total

    def newest_number(self) -> int:
        """Return the highest number that pipelit-agents assigned to an entry, or 0."""
        with self._database.reading() as connection:
            return _highest_stored(connection)

    def head(self) -> AuditHead:
        """Return the newest seal."""
        with self._database.reading() as connection:
            last = last_seal(connection)
        if last is None:
            return AuditHead(0, 0, START, iso(0.0))
        if not is_formed(last):
            raise tampered(last)
        return AuditHead(last.number, last.last_id, last.digest, iso(last.sealed_at))

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
                if not only_count:
                    fitting_keyring(connection, keyring)
                state, tags = tag_state(keyring, seal_at(connection, number))
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
                return seal.row.entries

    def _next_seal(self, keyring: Keyring, until: int, batch: int) -> _Unsigned | None:
        # This holds no lock. It is correct because of its order: it reads the newest seal, then
        # the open transactions, then the entries. A missing entry can then only be written by one
        # of these transactions, or never.
        with self._database.reading() as connection:
            last = last_seal(connection)
            if last is not None and not (is_formed(last) and is_signed(keyring, last)):
                raise tampered(last)
            writers = open_transactions(connection)
        known = Gaps.from_json(last.gaps) if last else Gaps()
        first, number, before = (last.last_id, last.number, last.digest) if last else (0, 0, START)
        with self._database.reading() as connection:
            late = [
                each
                for some in conditions(known.awaited)
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
                        ", ".join(writers.every[:MAX_LISTED]),
                    )
                if missing:
                    still.append(OpenGap(missing, writers.every))
            gaps = Gaps(Ranges.of(late), tuple(still))
            if last_id == first and not late and gaps.open == known.open:
                return None
            stored = gaps.to_json()
            read = read_ranges(
                connection, before, (*gaps.late, (first + 1, last_id)), Ranges(), float("inf")
            )
        row = SealRow(number + 1, last_id, read.entries, read.digest, "", 0.0, "", stored)
        return _Unsigned(last, row)

    def _add(self, keyring: Keyring, seal: _Unsigned) -> bool:
        """Add a seal, and return True; False if another seal was added in the meantime."""
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, "audit:seal")
            last = last_seal(connection)
            if (last and (last.number, last.digest)) != (
                seal.after and (seal.after.number, seal.after.digest)
            ):
                return False
            row = seal.row._replace(sealed_at=float(self._clock()))
            row = row._replace(mac=sign(fitting_keyring(connection, keyring), row))
            connection.execute(insert(AuditSealRow).values(row._asdict()))
        return True


def _highest_stored(connection: Connection) -> int:
    """Return the current highest number of an entry. Later entries are sealed the next time."""
    # Take the snapshot first, so that the numbering isn't older than it.
    last_seal(connection)
    highest = highest_number(connection)
    within = select(func.max(AuditRow.id)).where(AuditRow.id >= 1, AuditRow.id <= highest)
    return connection.scalar(within) or 0
