"""Replacing ``FIELD_ENCRYPTION_KEY`` while the system runs: which values are under which key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from sqlalchemy import Connection, delete, update

from pipelit_agents._bounds import require_count
from pipelit_agents._core import Core
from pipelit_agents._twins import off_the_loop
from pipelit_agents.accounts.second_factor import Mfa
from pipelit_agents.audit.trail import AuditTrail
from pipelit_agents.database import maintenance
from pipelit_agents.database.application_columns import (
    EncryptedColumn,
    Location,
    Models,
    Source,
    columns_elsewhere,
    columns_of_models,
    keyrings_of,
    location_of,
)
from pipelit_agents.database.key_counts import Counted
from pipelit_agents.database.key_row import (
    KEY_TABLE,
    key_state,
    name_newest_key,
    require_known,
)
from pipelit_agents.database.sealed_columns import key_text, sealed_tables, tag_columns
from pipelit_agents.database.token_search import search_columns
from pipelit_agents.errors import ConfigurationError
from pipelit_agents.operations.approval_tags import forget_foreign, retag
from pipelit_agents.operations.checkpoint_keys import count_older_values
from pipelit_agents.operations.own_values import OwnValues, UnreadableRow
from pipelit_agents.protocol.usernames import OPERATOR
from pipelit_agents.sealing.keyring import Keyring
from pipelit_agents.sealing.purposes import CHECKPOINTS

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

__all__ = ["KeyStatus", "Keys", "Rotation"]

# A process that still has only the older key encrypts new values under it, which needs another
# pass. If it goes on after these passes, it must be restarted.
_PASSES: Final = 5
_UNFIT: Final = (
    f"{KEY_TABLE}: it names another key than the newest, or was changed (pipelit-agents check)"
)
_NO_CHECKPOINTS: Final = (
    "sealed checkpoints: name the checkpointers that sealed_saver or checkpoint_serializer wrote to"
)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """How many values are under which key.

    Attributes:
        keys: A name of each key of ``FIELD_ENCRYPTION_KEY``, newest first. It reveals nothing about
            the key.
        newest: How many values are under the newest key.
        older: How many are under an older one, those of ``columns`` included.
        unreadable: Which values no key decrypts.
        checkpoints: How many values of the checkpoints that were read are under an older key; None
            where none were read.
        columns: How many values are under an older key in columns that aren't this package's, by
            ``table.column``; those of checkpoints included, where they are in a database that was
            searched.
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
    """The result of a rotation.

    Attributes:
        resealed: How many values were encrypted again.
        status: How many values are under which key afterwards.
    """

    resealed: int
    status: KeyStatus


class _Retag(Protocol):
    """Tags rows again under the newest key, or only counts them.

    It returns how many rows are tagged under the newest key, under an older one, and under none.
    """

    def __call__(self, keyring: Keyring, *, only_count: bool = False) -> tuple[int, int, int]: ...


# Takes the keys, and what records a row in a transaction.
_Forget: TypeAlias = Callable[[Keyring, Callable[[Connection, str], None]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Tagged:
    """Rows with tags (MACs). The models say which columns hold a tag of which kind.

    A tag isn't decrypted but compared, and its fields, its lock and what is checked about a row
    belong to the service that makes it. So the services tag their rows again themselves.

    Attributes:
        retag: Tags the rows again.
        unreadable: What the status calls the rows whose tag no key has made.
        forget: Deletes these rows, records each in the transaction that deletes it, and returns
            which they were; None where they stay.
        forgotten: What precedes each row's name in the answer of ``keys forget``.
    """

    retag: _Retag
    unreadable: str
    forget: _Forget | None = None
    forgotten: str = ""


class Keys:
    """The keys of one database; ``pipelit.keys``.

    Args:
        core: The database, and the keys that its values are encrypted under.
        audit: The trail, whose seals are tagged under the keys.
        mfa: The second factors, whose recovery codes are tagged under the keys.
    """

    def __init__(self, core: Core, audit: AuditTrail, mfa: Mfa) -> None:
        self._core = core
        self._database = core.database
        self._keyring = core.keyring
        self._values = OwnValues(core.database)
        # By the kind that the models declare. Seals are tagged again once, after all passes.
        self._seals = _Tagged(
            audit.seals.retag, "seals of the audit trail (pipelit-agents audit verify)"
        )
        self._tagged = {
            "approvals": _Tagged(
                partial(retag, core),
                "tags of approvals",
                partial(forget_foreign, core),
                "approvals",
            ),
            "recovery codes": _Tagged(
                mfa.recovery.retag,
                "tags of recovery codes",
                mfa.recovery.forget_foreign,
                "recovery_codes of",
            ),
        }

    def status(
        self,
        *,
        checkpointers: Sequence[BaseCheckpointSaver[Any]] | None = None,
        models: Sequence[Models] | None = None,
    ) -> KeyStatus:
        """Count how many values are under which key.

        All columns that can hold text are searched, those of an application too, in this database
        and in those that ``models`` names by an engine. So a column with ciphertexts is counted
        even if no model names it any more. Checkpoints in these databases are counted among
        ``columns``, also where no checkpointer for them is named.

        The keys are read once, at the beginning.

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
            UnsealError: A checkpoint isn't encrypted, or no key decrypts it.
        """
        live = self._current_keys()
        # The same keys from the beginning to the end.
        keyring, here = live.snapshot(), Source.of(self._database)
        columns = columns_of_models(models or [], here)
        own = self._own(keyring)
        with self._database.reading() as connection:
            state = key_state(connection, keyring)
        if state == "older":
            own.add_older(KEY_TABLE)
        elif state not in ("newest", "missing"):
            own.unreadable.append(_UNFIT)
        others, looked = self._search(columns, here, keyring)
        for each in columns:
            each.count(keyring, others)
        not_counted = [
            *self._unknown_tags(),
            *others.not_counted,
            *columns_elsewhere(looked, keyring),
        ]
        checkpoints = None
        if checkpointers:
            checkpoints = sum(count_older_values(each, keyring) for each in checkpointers)
        else:
            not_counted.append(_NO_CHECKPOINTS)
        if not live.snapshot().has_the_keys_of(keyring):
            not_counted.append("values under other keys: the keys changed during the count")
        return KeyStatus(
            tuple(keyring.fingerprint(position) for position in range(len(keyring))),
            own.newest + others.newest,
            sum(own.older.values()) + sum(others.older.values()),
            (*own.unreadable, *others.unreadable),
            checkpoints,
            others.older,
            tuple(not_counted),
        )

    astatus: Final = off_the_loop(status)

    def _current_keys(self) -> Keyring:
        keyring = self._keyring()
        keyring.ask_again()
        return keyring

    def _own(self, keyring: Keyring) -> Counted:
        """Count the values and tags of this package's own tables."""
        counted = self._values.count(keyring)
        for kind, tagged in {"seals": self._seals, **self._tagged}.items():
            newest, older, foreign = tagged.retag(keyring, only_count=True)
            counted.newest += newest
            counted.add_older(kind, older)
            if foreign:
                counted.unreadable.append(f"{foreign} {tagged.unreadable}")
        return counted

    def _search(
        self, columns: Sequence[EncryptedColumn], here: Source, keyring: Keyring
    ) -> tuple[Counted, set[Location]]:
        """Search all other columns of this database and of those of the models."""
        keyrings = keyrings_of(keyring, CHECKPOINTS)
        sources = {here.key: here} | {each.source.key: each.source for each in columns}
        counted, looked = Counted(), set[Location]()
        for source in sources.values():
            known = {
                location_of(each.column)
                for each in columns
                if each.source.key == source.key and each.needs(keyring)
            }
            if source.key == here.key:
                known |= {
                    location_of(each.table.c[name])
                    for each in sealed_tables()
                    for name in each.columns
                }
            found, seen = search_columns(source, known, keyring, keyrings)
            counted.add(found)
            looked |= seen
        return counted, looked

    def _unknown_tags(self) -> list[str]:
        """Name the columns of tags that no service tags again."""
        known = {"seals", "database key", *self._tagged}
        return [
            f"{column.table.name}.{column.name}, whose tags no rotation knows"
            for column, kind in tag_columns()
            if kind not in known
        ]

    def rotate(
        self,
        *,
        batch: int = 100,
        progress: Callable[[int, int], None] | None = None,
        checkpointers: Sequence[BaseCheckpointSaver[Any]] | None = None,
        models: Sequence[Models] | None = None,
        by: str = OPERATOR,
    ) -> Rotation:
        """Encrypt all values again under the newest key; it may be called again at any time.

        Columns of an application's own models are encrypted again only where ``models`` names them;
        others are counted. Checkpoints stay as they are: they are counted, and need their key until
        their threads are deleted.

        Args:
            batch: How many rows are replaced in one transaction.
            progress: Receives how many of how many rows are done, of this package's own tables.
            checkpointers: As for ``status``.
            models: As for ``status``.
            by: Who requested the rotation, for the audit.

        Raises:
            ConfigurationError: There is no key, none of the keys is this database's, or a table of
                the models isn't there.
            StorageError: The database can't be reached. Values that were replaced stay replaced.
            TypeError: ``batch`` isn't a whole number, or ``models`` no list of models.
            ValueError: ``batch`` is less than 1.
        """
        require_count(batch, "batch")
        keyring, total = self._current_keys(), 0
        report = progress or (lambda _done, _all: None)
        columns = columns_of_models(models or [], Source.of(self._database))
        self._name_key(keyring, by)
        for _ in range(_PASSES):
            replaced = self._values.encrypt_again(keyring, batch, report)
            replaced += sum(each.encrypt_again(keyring, batch) for each in columns)
            replaced += sum(each.retag(keyring)[1] for each in self._tagged.values())
            total += replaced
            if not replaced:
                break
        self._seals.retag(keyring)
        with self._database.writing(durable=True) as connection:
            reason = f"{total} encrypted again under {keyring.fingerprint()}"
            self._core.record(connection, by, "keys", "keys.rotate", reason)
        return Rotation(total, self.status(checkpointers=checkpointers, models=models))

    arotate: Final = off_the_loop(rotate)

    def _name_key(self, keyring: Keyring, by: str) -> None:
        """Let the database name the newest key, so that nothing more is written under others."""
        with self._database.reading() as connection:
            state = key_state(connection, keyring)
        if state == "newest":
            return
        if state == "missing":
            own = self._own(keyring)
            if own.unreadable and not own.newest and not sum(own.older.values()):
                raise ConfigurationError(
                    "FIELD_ENCRYPTION_KEY decrypts nothing in this database: set the key that "
                    "encrypted it, or if that is lost: pipelit-agents keys forget"
                )
        with self._database.writing(durable=True) as connection:
            name_newest_key(connection, keyring)
            # The entry with the number of values comes at the end, which a killed process doesn't
            # reach.
            reason = f"the database's key is {keyring.fingerprint()} now"
            self._core.record(connection, by, "keys", "keys.rotate", reason)

    def forget_unreadable(self, *, by: str = OPERATOR) -> Sequence[str]:
        """Delete the values that no key decrypts: for a key that is lost for good.

        Credentials, peerings and pending second factors are deleted. Agents keep their accounts
        without a secret until ``users.rotate_totp``, and people are without a second factor. From
        then on the newest key is this database's.

        Args:
            by: Who requested it, for the audit.

        Returns:
            What was deleted.

        Raises:
            ConfigurationError: There is no key, a function for the keys failed, or another process
                made another key this database's meanwhile.
        """
        keyring = self._current_keys()
        # First, so that no other process stores anything under another key meanwhile.
        self._name_key_anyway(keyring, by)
        forgotten = [
            name
            for each in self._values.unreadable(keyring)
            if (name := self._forget(each, keyring, by))
        ]
        for tagged in self._tagged.values():
            if tagged.forget is not None:
                what = tagged.forgotten
                gone = tagged.forget(keyring, partial(self._record_forgotten, by, what))
                forgotten += [f"{what} {each}" for each in gone]
        return forgotten

    aforget_unreadable: Final = off_the_loop(forget_unreadable)

    def _name_key_anyway(self, keyring: Keyring, by: str) -> None:
        """Let the database name the newest key if it names none of the keys."""
        with self._database.reading() as connection:
            if key_state(connection, keyring) in ("newest", "older", "behind"):
                return
        with self._database.writing(durable=True) as connection:
            name_newest_key(connection, keyring, anyway=True)
            reason = f"the database's key is {keyring.fingerprint()} now"
            self._core.record(connection, by, "keys", "keys.forget", reason)

    def _record_forgotten(self, by: str, what: str, connection: Connection, name: str) -> None:
        subject = name.rpartition(" ")[2]
        self._core.record(connection, by, subject, "keys.forget", f"{what} {name}")

    def _forget(self, row: UnreadableRow, keyring: Keyring, by: str) -> str:
        """Delete one row's values; return its name, or nothing if it was replaced meanwhile."""
        table, key = row.table.table, key_text(row.key)
        name = f"{table.name.removeprefix('pipelit_')} {key}"
        with self._database.writing(durable=True) as connection:
            require_known(connection, keyring)
            if row.table.rules.unreadable == "clear columns":
                cleared = dict.fromkeys(row.tokens)
                done = connection.execute(update(table).where(*row.unchanged).values(cleared))
            else:
                done = connection.execute(delete(table).where(*row.unchanged))
            if not done.rowcount:
                return ""
            self._core.record(connection, by, key, "keys.forget", name)
        return name

    def purge(self) -> None:
        """Remove replaced values from the database's files; for use after a compromise.

        It rewrites the tables, and needs the database for itself until it is done. Copies of the
        database, archives of its write-ahead log and snapshots of its disk keep the old values.

        Raises:
            StorageError: Others are using the database.
        """
        maintenance.purge(self._database)

    apurge: Final = off_the_loop(purge)
