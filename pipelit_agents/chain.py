"""The seals of the audit trail: a chain of hashes, each under a key that the database hasn't.

Entries are sealed in batches, by one at a time and never inside what they record. Each seal's
digest covers its entries and the seal before it; its tag is an HMAC under a key derived from
``FIELD_ENCRYPTION_KEY``. So who can write to the tables and hasn't the key can't change, remove,
insert or reorder what stands under a seal that is there. Deleting the newest seals, and what stood
under them, shows against heads that were kept elsewhere, and against nothing else: what is then
written in their place is sealed like any other entry.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.database.engine import Database
from pipelit_agents.database.models import AuditRow, AuditSealRow
from pipelit_agents.errors import AuditTampered, ConfigurationError
from pipelit_agents.keyring import Keyring

__all__ = ["AuditHead", "AuditReport", "Chain"]

_START: Final = "0" * 64
_LABEL: Final = "audit-seal"
_PRUNED: Final = "audit-pruned"
_PAGE: Final = 1000
_COLUMNS: Final = (
    "id", "at", "actor", "subject", "action", "outcome", "reason", "run", "node", "thread",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest seal, to be kept where the database's writers can't reach.

    Attributes:
        number: Of the seal, from 1; 0 where nothing is sealed.
        last_id: The last entry that it covers.
        digest: 64 hexadecimal digits, over all that came up to here.
        at: When it was sealed, ISO 8601 in UTC.
    """

    number: int
    last_id: int
    digest: str
    at: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> AuditHead:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ConfigurationError: It is something else.
        """
        try:
            fields = json.loads(line)
            head = cls(**fields)
            types = tuple(type(value) for value in fields.values())
        except (TypeError, ValueError):
            types = ()
        if types != (int, int, str, str):
            raise ConfigurationError(
                "the head can't be read: it has to be a line that `audit head` printed"
            )
        return head


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a check of the trail found.

    Attributes:
        sealed: How many entries stand under seals that are right.
        unsealed: How many came since, and are protected by nothing yet.
        pruned: How many were deleted by who has the key.
        problems: What is wrong, each with where; empty for a trail that is whole.
    """

    sealed: int
    unsealed: int
    pruned: int
    problems: tuple[str, ...]


class Chain:
    """Seals and checks the trail of one database.

    Args:
        database: Where it stands.
        keyring: Tags the seals; called when one is needed.
        clock: Unix seconds.
    """

    def __init__(
        self, database: Database, keyring: Callable[[], Keyring], clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._clock = clock

    def seal(self, batch: int) -> int:
        """Seals what isn't; see :meth:`AuditTrail.seal`."""
        keyring, settled, total = self._keyring(), self._settled(), 0
        while sealed := self._seal_batch(keyring, settled, batch):
            total += sealed
        return total

    def head(self) -> AuditHead:
        """The newest seal."""
        with self._database.reading() as connection:
            last = _last(connection)
        if last is None:
            return AuditHead(0, 0, _START, _iso(0.0))
        if not _is_formed(last):
            raise _unfit(last)
        return AuditHead(last.number, last.last_id, last.digest, _iso(last.sealed_at))

    def verify(self, heads: Sequence[AuditHead]) -> AuditReport:
        """Computes every seal again; see :meth:`AuditTrail.verify`."""
        keyring = self._keyring()
        sealed = pruned = 0
        problems: list[str] = []
        digest, last_id, number = _START, 0, 0
        digests = {0: _START}
        with self._database.reading() as connection:
            for seal in list(connection.execute(_seals())):
                number += 1
                where = f"seal {seal.number!r:.20} (entries {last_id + 1} to {seal.last_id!r:.20})"
                if not _is_formed(seal):
                    problems.append(f"{where}: it isn't what was written")
                    continue
                if seal.number != number or seal.last_id <= last_id:
                    problems.append(f"{where}: a seal before it is missing, or out of order")
                    number = seal.number
                if not _is_tagged(keyring, seal, _LABEL, seal.mac):
                    problems.append(f"{where}: was not made with a key of FIELD_ENCRYPTION_KEY")
                try:
                    count, found = _digest(connection, digest, last_id, seal.last_id)
                except SQLAlchemyError:
                    problems.append(f"{where}: an entry can't be read")
                    break
                if seal.pruned:
                    pruned += seal.entries
                    if count or not _is_tagged(keyring, seal, _PRUNED, seal.pruned):
                        problems.append(f"{where}: says without the key that it was pruned")
                elif (count, found) != (seal.entries, seal.digest):
                    same = count == seal.entries
                    what = "changed or reordered" if same else "removed or added"
                    problems.append(f"{where}: entries were {what}")
                else:
                    sealed += count
                # What comes after is compared with what was sealed, so that one change is one
                # problem.
                digest, last_id = seal.digest, seal.last_id
                digests[seal.number] = seal.digest
            unsealed = connection.scalar(
                select(func.count()).select_from(AuditRow).where(AuditRow.id > last_id)
            )
        problems += [
            f"seal {head.number} of the head of {head.at} is not there any more: the trail was cut "
            "off or replaced"
            for head in heads
            if digests.get(head.number) != head.digest
        ]
        return AuditReport(sealed, unsealed or 0, pruned, tuple(problems))

    def prune(self, before: float) -> int:
        """Deletes whole sealed batches; see :meth:`AuditTrail.prune`."""
        keyring, total = self._keyring(), 0
        first, digest, number = 0, _START, 0
        while True:
            with self._database.writing(durable=True) as connection:
                self._database.lock(connection, "audit:seal")
                found_seals = connection.execute(
                    _seals().where(AuditSealRow.number > number).limit(2)
                ).all()
                # The newest stays, so that no new entry gets the number of one that is gone.
                if len(found_seals) < 2:
                    return total
                seal = found_seals[0]
                if not _is_formed(seal) or not _is_tagged(keyring, seal, _LABEL, seal.mac):
                    raise _unfit(seal)
                within = (AuditRow.id > first, AuditRow.id <= seal.last_id)
                newest = connection.scalar(select(func.max(AuditRow.at)).where(*within))
                found = _digest(connection, digest, first, seal.last_id)
                if seal.pruned:
                    if found[0] or not _is_tagged(keyring, seal, _PRUNED, seal.pruned):
                        raise _unfit(seal)
                elif found != (seal.entries, seal.digest) or not isinstance(newest, int | float):
                    raise _unfit(seal)
                elif newest >= before:
                    return total
                else:
                    connection.execute(delete(AuditRow).where(*within))
                    tag = keyring.mac(_PRUNED, *_tagged(seal))
                    connection.execute(
                        update(AuditSealRow)
                        .where(AuditSealRow.number == seal.number)
                        .values(pruned=tag)
                    )
                    total += seal.entries
            first, digest, number = seal.last_id, seal.digest, seal.number

    def retag(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]:
        """Tags under the newest key what was tagged under an older one.

        Returns:
            How many seals are tagged under the newest key, under an older one, and under none.
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

    def _settled(self) -> int:
        # Entries of other transactions get their numbers before they are seen. Under this lock
        # none is under way, so up to the highest number all that will ever be there is.
        with self._database.writing() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(text("LOCK TABLE pipelit_audit IN SHARE MODE"))
            return connection.scalar(select(func.max(AuditRow.id))) or 0

    def _seal_batch(self, keyring: Keyring, settled: int, batch: int) -> int:
        with self._database.writing(durable=True) as connection:
            self._database.lock(connection, "audit:seal")
            last = _last(connection)
            if last is not None and not (
                _is_formed(last) and _is_tagged(keyring, last, _LABEL, last.mac)
            ):
                raise _unfit(last)
            first = last.last_id if last else 0
            ids = (
                select(AuditRow.id)
                .where(AuditRow.id > first, AuditRow.id <= settled)
                .order_by(AuditRow.id)
                .limit(batch)
                .subquery()
            )
            last_id = connection.scalar(select(func.max(ids.c.id)))
            if last_id is None:
                return 0
            before = last.digest if last else _START
            count, digest = _digest(connection, before, first, last_id)
            signed = {
                "number": last.number + 1 if last else 1,
                "last_id": last_id,
                "entries": count,
                "digest": digest,
                "sealed_at": float(self._clock()),
            }
            tag = keyring.mac(_LABEL, *_tag_fields(**signed))
            connection.execute(insert(AuditSealRow).values(signed | {"mac": tag}))
        return count


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
        isinstance(each, str) and each.isascii() for each in (seal.digest, seal.mac, seal.pruned)
    )
    return numbers and texts and isinstance(seal.sealed_at, int | float)


def _unfit(seal: Any) -> AuditTampered:
    return AuditTampered(
        f"seal {seal.number!r:.20} and its entries don't fit, so nothing is built on them or "
        "deleted from there on; see: pipelit-agents audit verify"
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


def _digest(connection: Connection, before: str, first: int, last: int) -> tuple[int, str]:
    """How many entries follow ``first`` up to ``last``, and the digest that closes them."""
    digest = hashlib.sha256(b"pipelit-agents/audit/v1\0" + before.encode())
    count = 0
    for row in _entries(connection, first, last):
        for column in _COLUMNS:
            value = getattr(row, column)
            # As it should be in one form; anything else in a form that none of ours has.
            if column == "at" and isinstance(value, int | float):
                field = repr(float(value)).encode()
            elif isinstance(value, int if column == "id" else str):
                field = str(value).encode("utf-8", "backslashreplace")
            else:
                field = f"\0{value!r}".encode()
            digest.update(len(field).to_bytes(4, "big") + field)
        count += 1
    return count, digest.hexdigest()


def _entries(connection: Connection, first: int, last: int) -> Iterator[Any]:
    while True:
        page: Sequence[Any] = connection.execute(
            select(AuditRow.__table__)
            .where(AuditRow.id > first, AuditRow.id <= last)
            .order_by(AuditRow.id)
            .limit(_PAGE)
        ).all()
        yield from page
        if len(page) < _PAGE:
            return
        first = page[-1].id


def _tagged(seal: Any) -> list[bytes]:
    names = ("number", "last_id", "entries", "digest")
    fields = {name: getattr(seal, name) for name in names}
    return _tag_fields(**fields, sealed_at=float(seal.sealed_at))


def _tag_fields(**signed: Any) -> list[bytes]:
    return [str(value).encode() for value in signed.values()]


def _is_tagged(keyring: Keyring, seal: Any, label: str, tag: str) -> bool:
    found = False
    for each in keyring.macs(label, *_tagged(seal)):
        found |= hmac.compare_digest(each, tag)
    return found


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
