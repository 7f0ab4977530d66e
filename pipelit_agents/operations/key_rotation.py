"""Replacing ``FIELD_ENCRYPTION_KEY`` while the system runs: what is under which key.

Each value is replaced only where it still is what was read, so that nothing that is written
meanwhile is lost; what is sealed under the newest key is left alone, so that a rotation that was
killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, delete, func, select, update

from pipelit_agents._bounds import require_count
from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.second_factor import Mfa
from pipelit_agents.approvals.register import Register
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.database.encrypted_string import EncryptedString
from pipelit_agents.database.models import (
    ApprovalAnswerRow,
    ApprovalRow,
    AuditSealRow,
    Base,
    CredentialRow,
    MfaPendingRow,
    PeeringRow,
    RecoveryCodeRow,
    UserRow,
)
from pipelit_agents.database.sealed_columns import (
    Counted,
    Models,
    Place,
    Source,
    Spot,
    elsewhere,
    keyrings_of,
    places_of,
    scan,
    spot_of,
)
from pipelit_agents.errors import ConfigurationError, StorageError, UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed
from pipelit_agents.sealing.purposes import (
    CHECKPOINTS,
    approval_purpose,
    credential_purpose,
    peering_purpose,
    pending_purpose,
    reason_purpose,
    totp_purpose,
)

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

__all__ = ["KeyStatus", "Keys", "Rotation"]

OPERATOR: Final = "operator"
# Whoever seals under an older key meanwhile makes work for another pass; one that goes on doing so
# is a process that has to be started again.
_PASSES: Final = 5


# The columns of ours that hold a tag under a key; what has one is tagged again in a rotation.
_TAGS: Final = frozenset(
    {
        ApprovalRow.__table__.c.mac,
        ApprovalAnswerRow.__table__.c.mac,
        AuditSealRow.__table__.c.mac,
        AuditSealRow.__table__.c.pruned,
        RecoveryCodeRow.__table__.c.mac,
    }
)
_NO_CHECKPOINTS: Final = (
    "sealed checkpoints: name the checkpointers that sealed_saver or checkpoint_serializer wrote to"
)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How many values are under which key.

    Attributes:
        keys: A name of each key of ``FIELD_ENCRYPTION_KEY``, newest first; nothing of the key.
        newest: How many values are under the newest key.
        older: How many are under an older one, those of ``columns`` included.
        unreadable: Where values are that no key opens.
        checkpoints: How many values of the checkpoints that were read are under an older key; None
            where none were read.
        columns: How many values are under an older key in columns that aren't this package's, by
            ``table.column``; those of checkpoints included, where they are in a database that was
            looked at.
        not_counted: What may need an older key and wasn't counted.
    """

    keys: tuple[str, ...]
    newest: int
    older: int
    unreadable: tuple[str, ...]
    checkpoints: int | None
    columns: Mapping[str, int] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()

    @property
    def older_can_go(self) -> bool | None:
        """Whether nothing needs the older keys.

        False where something was found that does. None where nothing was found and something
        wasn't counted: ``not_counted`` names it. True only where everything was counted.
        """
        if self.older or self.unreadable or self.checkpoints:
            return False
        return None if self.not_counted or self.checkpoints is None else True


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did.

    Attributes:
        resealed: How many values it sealed anew.
        status: What stands under which key afterwards.
    """

    resealed: int
    status: KeyStatus


@dataclass(frozen=True, slots=True)
class _Place:
    table: Any
    key: Any
    # The purpose of each sealed column, by its row.
    columns: Mapping[str, Callable[[Any], str]]
    lock: Callable[[Any], str]
    # What purpose and lock are made of.
    more: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.key.key, *self.columns, *self.more)


_PLACES: Final = (
    _Place(
        UserRow,
        UserRow.username,
        {
            "totp_secret": lambda row: totp_purpose(row.username),
            "totp_previous": lambda row: totp_purpose(row.username),
        },
        lambda row: f"account:{row.username}",
    ),
    _Place(
        MfaPendingRow,
        MfaPendingRow.username,
        {"secret": lambda row: pending_purpose(row.username)},
        lambda row: f"account:{row.username}",
    ),
    _Place(
        PeeringRow,
        PeeringRow.relation,
        {"secret": lambda row: peering_purpose(row.relation)},
        lambda row: f"account:{row.agent}",
        ("agent",),
    ),
    _Place(
        CredentialRow,
        CredentialRow.name,
        {
            "sealed": lambda row: credential_purpose(row.name, row.kind, row.public, row.allow),
            "hint": lambda row: (
                f"{credential_purpose(row.name, row.kind, row.public, row.allow)}:hint"
            ),
        },
        lambda row: f"credential:{row.name}",
        ("kind", "public", "allow"),
    ),
    _Place(
        ApprovalRow,
        ApprovalRow.id,
        {"shown": lambda row: approval_purpose(row.id, row.digest)},
        lambda row: f"approval:{row.digest}",
        ("digest",),
    ),
    _Place(
        ApprovalAnswerRow,
        ApprovalAnswerRow.seq,
        {"reason": lambda row: reason_purpose(row.approval_id, row.username)},
        lambda row: f"approval:{row.digest}",
        ("approval_id", "username", "digest"),
    ),
)


class Keys:
    """The keys of one database; ``pipelit.keys``.

    Args:
        core: The database, and the keys that its values are encrypted under.
        audit: The trail, whose seals are tagged under them.
        register: Of approvals, whose rows are tagged under them.
        mfa: Second factors, whose recovery codes are tagged under them.
    """

    def __init__(self, core: Core, audit: AuditTrail, register: Register, mfa: Mfa) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._audit = audit
        self._register = register
        self._mfa = mfa

    def status(
        self,
        *,
        checkpointers: Sequence[BaseCheckpointSaver[Any]] | None = None,
        models: Sequence[Models] | None = None,
    ) -> KeyStatus:
        """Count how many values are under which key.

        In this database, and in those that ``models`` names by an engine, all columns that can hold
        text are looked at, those of an application too: a column with ciphertexts is counted even
        if no model names it any more. Checkpoints that are there are counted among ``columns``,
        also where no checkpointer for them is named.

        All of it is counted by the keys that are known after they were asked for at the beginning.

        Args:
            checkpointers: The checkpointers that were written to through ``sealed_saver`` or
                ``checkpoint_serializer``; all checkpoints are read. Without any, it stays open
                whether the older keys can go.
            models: An application's models with ``EncryptedString`` columns: declarative bases or
                their metadata, ``[Base.metadata]``, or a pair with the engine of another database,
                ``[(Base.metadata, engine)]``.

        Raises:
            ConfigurationError: There is no key, or a table of the models isn't there.
            StorageError: The database can't be reached.
            TypeError: ``models`` isn't a list of models.
            UnsealError: A checkpoint isn't sealed, or no key opens it.
        """
        live = self._asked_again()
        # One set of keys from the beginning to the end.
        keyring, here = live.snapshot(), Source.of(self._database)
        places = places_of(models or [], here)
        own = self._own(keyring)
        others, looked = self._others(places, here, keyring)
        for each in places:
            each.count(keyring, others)
        not_counted = [
            *_unknown_tags(),
            *others.not_counted,
            *elsewhere(looked, keyring),
        ]
        checkpoints = None
        if checkpointers:
            checkpoints = sum(_older_checkpoints(each, keyring) for each in checkpointers)
        else:
            not_counted.append(_NO_CHECKPOINTS)
        if not live.snapshot().has_the_keys_of(keyring):
            not_counted.append("what other keys sealed: the keys changed while it was counted")
        return KeyStatus(
            tuple(keyring.fingerprint(position) for position in range(len(keyring))),
            own.newest + others.newest,
            sum(own.older.values()) + sum(others.older.values()),
            (*own.unreadable, *others.unreadable),
            checkpoints,
            others.older,
            tuple(not_counted),
        )

    def _others(
        self, places: Sequence[Place], here: Source, keyring: Keyring
    ) -> tuple[Counted, set[Spot]]:
        """What all other columns hold, of this database and of those of the models."""
        rings = keyrings_of(keyring, CHECKPOINTS)
        sources = {here.key: here} | {each.source.key: each.source for each in places}
        counted, looked = Counted(), set[Spot]()
        for source in sources.values():
            known = {
                spot_of(each.column)
                for each in places
                if each.source.key == source.key and each.needs(keyring)
            }
            if source.key == here.key:
                known |= {spot_of(each.column) for each in self._sealed()}
            found, seen = scan(source, known, keyring, rings)
            counted.add(found)
            looked |= seen
        return counted, looked

    def _sealed(self) -> list[Place]:
        """All sealed columns of our own tables."""
        return [
            Place(column, Source.of(self._database))
            for table in Base.metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, EncryptedString)
        ]

    def _asked_again(self) -> Keyring:
        keyring = self._keyring()
        keyring.ask_again()
        return keyring

    def _own(self, keyring: Keyring) -> Counted:
        """What this package's own tables hold."""
        counted = Counted()
        for place in _PLACES:
            older = 0
            for row in self._rows(place, 500):
                if isinstance(row, _Unread):
                    counted.unreadable.append(f"{place.table.__tablename__} of {row.key!r:.80}")
                    continue
                for column, token in _tokens(place, row):
                    if keyring.is_newest(token):
                        counted.newest += 1
                        continue
                    try:
                        keyring.unseal(token, place.columns[column](row))
                        older += 1
                    except (TypeError, UnsealError, ValueError):
                        counted.unreadable.append(_name(place, row, column))
            counted.older[place.table.__tablename__] = older
        for column_place in self._other_columns():
            column_place.count(keyring, counted)
        newest, older, foreign = self._audit.seals.retag(keyring, only_count=True)
        counted.newest, counted.older["seals"] = counted.newest + newest, older
        if foreign:
            counted.unreadable.append(
                f"{foreign} seals of the audit trail (pipelit-agents audit verify)"
            )
        for kind, retag in self._tagged.items():
            newest, older, foreign = retag(keyring, only_count=True)
            counted.newest, counted.older[kind] = counted.newest + newest, older
            if foreign:
                counted.unreadable.append(f"{foreign} tags of {kind}")
        return counted

    def _other_columns(self) -> list[Place]:
        """The sealed columns of our own tables whose purpose no place tells."""
        told = {(each.table.__table__, name) for each in _PLACES for name in each.columns}
        return [
            each for each in self._sealed() if (each.column.table, each.column.name) not in told
        ]

    astatus = off_the_loop(status)

    def rotate(
        self,
        *,
        batch: int = 100,
        progress: Callable[[int, int], None] | None = None,
        checkpointers: Sequence[BaseCheckpointSaver[Any]] | None = None,
        models: Sequence[Models] | None = None,
        by: str = OPERATOR,
    ) -> Rotation:
        """Put all values under the newest key; it may be called again at any time.

        Columns of an application's own models are put under the newest key only where ``models``
        names them; others are counted. Checkpoints stay as they are: they are counted, and need
        their key until their threads are deleted.

        Args:
            batch: How many rows are replaced in one transaction.
            progress: Is told how many of how many rows are done, of this package's own tables.
            checkpointers: As for :meth:`status`.
            models: As for :meth:`status`.
            by: Who asked for it, for the record.

        Raises:
            ConfigurationError: There is no key, or a table of the models isn't there.
            StorageError: The database can't be reached. What was done stays done.
            TypeError: ``batch`` isn't a whole number, or ``models`` no list of models.
            ValueError: ``batch`` is less than 1.
        """
        require_count(batch, "batch")
        keyring, total = self._asked_again(), 0
        tell = progress or (lambda _done, _all: None)
        places = places_of(models or [], Source.of(self._database)) + self._other_columns()
        for _ in range(_PASSES):
            resealed = self._pass(keyring, batch, tell)
            resealed += sum(each.reseal(keyring, batch) for each in places)
            resealed += sum(retag(keyring)[1] for retag in self._tagged.values())
            total += resealed
            if not resealed:
                break
        self._audit.seals.retag(keyring)
        with self._database.writing(durable=True) as connection:
            reason = f"{total} encrypted again under {keyring.fingerprint()}"
            self._core.record(connection, by, "keys", "keys.rotate", reason)
        return Rotation(total, self.status(checkpointers=checkpointers, models=models))

    arotate = off_the_loop(rotate)

    def forget_unreadable(self, *, by: str = OPERATOR) -> Sequence[str]:
        """Deletes what no key opens: for a key that is lost for good.

        Credentials, peerings and pending second factors go; agents keep their accounts without a
        secret until ``users.rotate_totp``, and people are without a second factor.

        Args:
            by: Who asked for it, for the record.

        Returns:
            What was deleted.

        Raises:
            ConfigurationError: There is no key.
        """
        keyring, forgotten = self._keyring(), []
        for place in _PLACES:
            for row in list(self._rows(place, 500)):
                shut = [] if isinstance(row, _Unread) else _shut(keyring, place, row)
                if not shut and not isinstance(row, _Unread):
                    continue
                key = row.key if isinstance(row, _Unread) else getattr(row, place.key.key)
                with self._database.writing(durable=True) as connection:
                    if place.table is UserRow:
                        gone = dict.fromkeys(shut or place.columns)
                        connection.execute(
                            update(UserRow).where(UserRow.username == key).values(gone)
                        )
                    else:
                        connection.execute(delete(place.table).where(place.key == key))
                    name = f"{place.table.__tablename__.removeprefix('pipelit_')} {key}"
                    self._core.record(connection, by, str(key), "keys.forget", name)
                forgotten.append(name)
        forgotten += self._forget_tagged(keyring, by)
        return forgotten

    aforget_unreadable = off_the_loop(forget_unreadable)

    def purge(self) -> None:
        """Makes what was replaced leave the database's files; for after a compromise.

        It rewrites the tables, and needs the database for itself for as long. Copies of the
        database, its write-ahead log archives and snapshots of its disk keep what they have.

        Raises:
            StorageError: Others are using the database.
        """
        self._database.purge()

    apurge = off_the_loop(purge)

    @property
    def _tagged(self) -> Mapping[str, Callable[..., tuple[int, int, int]]]:
        # What has a tag and no ciphertext; an older tag is made again under the newest key.
        return {
            "approvals": self._register.retag,
            "recovery codes": self._mfa._retag_recovery_codes,
        }

    def _forget_tagged(self, keyring: Keyring, by: str) -> list[str]:
        gone = [f"approvals {each}" for each in self._register.forget(keyring)]
        gone += [f"recovery_codes of {each}" for each in self._mfa._forget_recovery_codes(keyring)]
        with self._database.writing(durable=True) as connection:
            for name in gone:
                self._core.record(connection, by, name.rpartition(" ")[2], "keys.forget", name)
        return gone

    def _pass(self, keyring: Keyring, batch: int, tell: Callable[[int, int], None]) -> int:
        with self._database.reading() as connection:
            rows = sum(
                connection.scalar(select(func.count()).select_from(place.table)) or 0
                for place in _PLACES
            )
        done = resealed = 0
        for place in _PLACES:
            pending: list[tuple[Any, dict[str, tuple[str, str]]]] = []
            for row in self._rows(place, 500):
                done += 1
                if isinstance(row, _Unread):
                    continue
                try:
                    found = {
                        column: (token, place.columns[column](row))
                        for column, token in _tokens(place, row)
                        if not keyring.is_newest(token)
                    }
                except (TypeError, ValueError):
                    # It stays as it is, and the status names it.
                    continue
                if found:
                    pending.append((row, found))
                if len(pending) >= batch:
                    resealed += self._replace(place, keyring, pending)
                    pending = []
                    tell(done, rows)
            resealed += self._replace(place, keyring, pending)
            tell(done, rows)
        return resealed

    def _replace(
        self,
        place: _Place,
        keyring: Keyring,
        pending: list[tuple[Any, dict[str, tuple[str, str]]]],
    ) -> int:
        replaced = 0
        anew = []
        for row, found in pending:
            try:
                anew.append(
                    (row, {c: keyring.reseal(token, at) for c, (token, at) in found.items()}, found)
                )
            except UnsealError:
                # It stays as it is, and the status names it.
                continue
        if not anew:
            return 0
        with self._database.writing(durable=True) as connection:
            locks = sorted({place.lock(row) for row, _, _ in anew})
            self._database.lock(connection, *locks, shared=True)
            for row, tokens, found in anew:
                replaced += self._swap(connection, place, row, tokens, found)
        return replaced

    @staticmethod
    def _swap(
        connection: Connection,
        place: _Place,
        row: Any,
        tokens: dict[str, str],
        found: dict[str, tuple[str, str]],
    ) -> int:
        same = [
            getattr(place.table, column) == Sealed(token, "")
            for column, (token, _) in found.items()
        ]
        values = {column: Sealed(token, "") for column, token in tokens.items()}
        swapped = connection.execute(
            update(place.table)
            .where(place.key == getattr(row, place.key.key), *same)
            .values(values)
        )
        return len(values) if swapped.rowcount else 0

    def _rows(self, place: _Place, page: int) -> Iterator[Any]:
        last = None
        while True:
            keys = select(place.key).order_by(place.key).limit(page)
            if last is not None:
                keys = keys.where(place.key > last)
            with self._database.reading() as connection:
                found: Sequence[Any] = connection.scalars(keys).all()
            if not found:
                return
            try:
                yield from self._read(place, found)
            except StorageError:
                # One of them can't be read, and keeps the others from nothing.
                for key in found:
                    try:
                        yield from self._read(place, [key])
                    except StorageError:
                        yield _Unread(key)
            last = found[-1]

    def _read(self, place: _Place, keys: Sequence[Any]) -> Sequence[Any]:
        columns = [place.table.__table__.c[name] for name in place.needs]
        with self._database.reading() as connection:
            return connection.execute(
                select(*columns).where(place.key.in_(keys)).order_by(place.key)
            ).all()


@dataclass(frozen=True, slots=True)
class _Unread:
    key: Any


def _tokens(place: _Place, row: Any) -> Iterator[tuple[str, str]]:
    for column in place.columns:
        sealed = getattr(row, column)
        if sealed is not None:
            yield column, sealed.token


def _shut(keyring: Keyring, place: _Place, row: Any) -> list[str]:
    found = []
    for column, token in _tokens(place, row):
        try:
            keyring.unseal(token, place.columns[column](row))
        except (TypeError, UnsealError, ValueError):
            found.append(column)
    return found


def _name(place: _Place, row: Any, column: str) -> str:
    return f"{place.table.__tablename__}.{column} of {getattr(row, place.key.key)}"


class _Counting(Keyring):
    """A keyring that counts what it opens under which key."""

    __slots__ = ("older",)
    older: list[int]

    @classmethod
    def of(cls, keyring: Keyring, older: list[int]) -> _Counting:
        made = cls.__new__(cls)
        for name in Keyring.__slots__:
            setattr(made, name, getattr(keyring, name))
        made.older = older
        return made

    def unseal(self, token: str, purpose: str) -> bytes:
        plain = super().unseal(token, purpose)
        self.older[0] += not self.is_newest(token)
        return plain

    def derive(self, label: str) -> Keyring:
        return _Counting.of(super().derive(label), self.older)


def _unknown_tags() -> list[str]:
    """Columns of ours that look like a tag, and that no rotation knows."""
    return [
        f"{table.name}.{column.name}, whose tags no rotation knows"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if (column.name == "mac" or column.name.endswith("_mac")) and column not in _TAGS
    ]


def _older_checkpoints(saver: BaseCheckpointSaver[Any], keyring: Keyring) -> int:
    try:
        from pipelit_agents.checkpoints.saver import SealedSaver
        from pipelit_agents.checkpoints.serializer import SealedSerializer
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"checkpoints need LangGraph ({error})") from None
    older = [0]
    counting = _Counting.of(keyring, older)
    if isinstance(saver, SealedSaver):
        saver = saver._saver
    reading: BaseCheckpointSaver[Any]
    if isinstance(saver.serde, SealedSerializer):
        # Only its values are sealed. The copy shares what the checkpointer has stored.
        reading = copy(saver)
        reading.serde = SealedSerializer.over(saver.serde, counting)
    else:
        reading = SealedSaver(saver, counting)
    for _ in reading.list(None):
        pass
    return older[0]
