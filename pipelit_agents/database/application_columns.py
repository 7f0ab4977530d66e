"""The ``EncryptedString`` columns of an application's own tables: counted, and encrypted again.

A ciphertext contains the digest of its purpose, so a value can be encrypted under another key
without knowing the purpose. ``pipelit_agents.database.token_search`` finds the ciphertexts in
columns that no model names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Table,
    and_,
    inspect,
    literal,
    or_,
    select,
    update,
)

from pipelit_agents.database.encrypted_string import EncryptedString, encrypted_tables
from pipelit_agents.database.engine import Database
from pipelit_agents.database.key_counts import Counted
from pipelit_agents.database.key_row import column_keyring
from pipelit_agents.database.row_encryption import Key
from pipelit_agents.errors import ConfigurationError, PipelitError, UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "EncryptedColumn",
    "Location",
    "Models",
    "Source",
    "after",
    "columns_elsewhere",
    "columns_of_models",
    "keyrings_of",
    "location_of",
]

# The schema (None for the default one), table and name of a column.
Location: TypeAlias = tuple[str | None, str, str]
# A declarative base or its metadata, alone or with the engine of its database.
Models: TypeAlias = Any

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Source:
    """A database: that of a ``Pipelit``, or another one of an application.

    Attributes:
        reading: Opens a transaction that reads.
        writing: Opens a transaction that writes.
        name: What messages call it.
        key: Tells databases apart. One database with two engines counts as two.
    """

    reading: Callable[[], AbstractContextManager[Connection]]
    writing: Callable[[], AbstractContextManager[Connection]]
    name: str
    key: int

    @classmethod
    def of(cls, database: Database) -> Source:
        """Return the database of a ``Pipelit``."""
        return cls(
            database.reading,
            lambda: database.writing(durable=True),
            "the database",
            id(database),
        )

    @classmethod
    def by(cls, engine: Engine) -> Source:
        """Return another database, by its engine."""
        return cls(engine.connect, engine.begin, engine.url.render_as_string(), id(engine))


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """One encrypted column of an application's table.

    Attributes:
        column: The column.
        source: The database of its table.
    """

    column: Column[Sealed]
    source: Source

    @property
    def name(self) -> str:
        """``table.column``, with the schema if the table has one."""
        return f"{self.column.table.fullname}.{self.column.name}"

    def needs(self, keyring: Keyring) -> bool:
        """Return whether its values may need one of these keys."""
        return _keyring_of(self.column, keyring) is not None

    def count(self, keyring: Keyring, counted: Counted) -> None:
        """Count the values under each key."""
        own = _keyring_of(self.column, keyring)
        if own is None:
            return
        # Not page by page: in the actual table, a model's key may be NULL, or not unique.
        wanted = select(self.column).where(self.column.is_not(None))
        with self.source.reading() as connection:
            for (stored,) in connection.execute(wanted, execution_options={"yield_per": _PAGE}):
                origin = own.origin_of(stored.token)
                if origin is None:
                    counted.unreadable.append(self.name)
                else:
                    counted.add_value(origin, keyring, self.name)

    def encrypt_again(self, keyring: Keyring, batch: int) -> int:
        """Encrypt the values that are under an older key again, under the newest one.

        A value is replaced only if it didn't change since it was read.

        Returns:
            How many values were replaced.
        """
        own, pending, replaced = _keyring_of(self.column, keyring), list[_Renewed](), 0
        if own is None:
            return 0
        for key, token in self._tokens():
            if not own.is_newest(token):
                try:
                    pending.append((key, token, own.renew(token)))
                except UnsealError:
                    # The value stays, and the status names it.
                    continue
            if len(pending) >= batch:
                replaced += self._swap(pending, own)
                pending = []
        return replaced + self._swap(pending, own)

    def _swap(self, pending: Sequence[_Renewed], own: Keyring) -> int:
        if not pending:
            return 0
        replaced = 0
        with self.source.writing() as connection:
            column_keyring(connection, own, is_declared=True)
            for key, token, renewed in pending:
                same = [each == value for each, value in zip(self._keys, key, strict=True)]
                swapped = connection.execute(
                    update(self.column.table)
                    .where(*same, self.column == Sealed(token, ""))
                    .values({self.column: Sealed(renewed, "")})
                )
                replaced += swapped.rowcount
        return replaced

    @property
    def _keys(self) -> list[Column[Any]]:
        return list(self.column.table.primary_key.columns)

    def _tokens(self) -> Iterator[tuple[Key, str]]:
        """Yield each row's key and token, page by page, so that no transaction stays open."""
        keys, last = self._keys, None
        if keys and self._has_null(keys):
            # Rows can't be ordered by a key that is NULL.
            with self.source.reading() as connection:
                yield from (
                    (tuple(row[:-1]), row[-1].token)
                    for row in connection.execute(
                        select(*keys, self.column).where(self.column.is_not(None))
                    ).all()
                )
            return
        wanted = select(*keys, self.column).where(self.column.is_not(None))
        while True:
            page = wanted.order_by(*keys).limit(_PAGE) if keys else wanted
            if last is not None:
                page = page.where(after(keys, last))
            with self.source.reading() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield tuple(row[:-1]), row[-1].token
            if not keys or len(rows) < _PAGE:
                return
            last = tuple(rows[-1][:-1])

    def _has_null(self, keys: Sequence[Column[object]]) -> bool:
        null = select(literal(1)).select_from(self.column.table)
        with self.source.reading() as connection:
            return (
                connection.scalar(null.where(or_(*(each.is_(None) for each in keys))).limit(1))
                is not None
            )


# A row's key, the token that was read, and the token that replaces it.
_Renewed: TypeAlias = tuple[Key, str, str]


def _keyring_of(column: Column[Any], keyring: Keyring) -> Keyring | None:
    """Return the keyring of a column; None where it shares no key with the given one."""
    declared = column.type.keyring if isinstance(column.type, EncryptedString) else None
    if declared is None:
        return keyring
    try:
        own = (declared if isinstance(declared, Keyring) else declared()).snapshot()
    except PipelitError:
        return keyring
    return own if own.shares_a_key(keyring) else None


def after(keys: Sequence[Column[object]], last: Sequence[object]) -> ColumnElement[bool]:
    """Return the condition for rows behind a key, in the order of the key's columns."""
    choices = []
    for at, each in enumerate(keys):
        before = [keys[earlier] == last[earlier] for earlier in range(at)]
        choices.append(and_(*before, each > last[at]))
    return or_(*choices)


def columns_of_models(models: Sequence[Models], here: Source) -> list[EncryptedColumn]:
    """Return the encrypted columns of models.

    Args:
        models: Declarative bases or their metadata. A pair, ``(Base, engine)``, says that their
            tables are in another database.
        here: The database of the models that come without an engine.

    Raises:
        ConfigurationError: A table isn't there, so its values would not be counted.
        TypeError: It isn't a list of models.
    """
    if isinstance(models, str | bytes | MetaData | type) or not isinstance(models, Collection):
        raise TypeError("models must be a list: models=[Base.metadata]")
    found = []
    for each in models:
        named, engine = each if isinstance(each, tuple) and len(each) == 2 else (each, None)
        metadata = named if isinstance(named, MetaData) else getattr(named, "metadata", None)
        if not isinstance(metadata, MetaData) or not isinstance(engine, Engine | None):
            raise TypeError(
                "each of models must be a declarative base or its metadata, alone or in a pair "
                "with the engine of its database: models=[Base.metadata, (Other.metadata, engine)]"
            )
        source = here if engine is None else Source.by(engine)
        columns = [
            column
            for table in metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, EncryptedString)
        ]
        _require_tables({column.table for column in columns}, source)
        found += [EncryptedColumn(column, source) for column in columns]
    return found


def _require_tables(tables: Collection[Table], source: Source) -> None:
    with source.reading() as connection:
        inspector = inspect(connection)
        gone = [each for each in tables if not inspector.has_table(each.name, each.schema)]
    if gone:
        raise ConfigurationError(
            f"models: there is no table {gone[0].fullname} in {source.name}. If it is in another "
            "database, name that one's engine: models=[(Base.metadata, engine)]"
        )


def keyrings_of(keyring: Keyring, *labels: str) -> list[Keyring]:
    """Return every keyring that may have encrypted a value of this process.

    Args:
        keyring: The keys.
        labels: Purposes that keys are derived for.
    """
    found = [keyring, *(keyring.derive(label) for label in labels)]
    for table in encrypted_tables():
        for column in table.columns:
            own = _keyring_of(column, keyring) if isinstance(column.type, EncryptedString) else None
            if own is not None and not any(own.has_the_keys_of(other) for other in found):
                found.append(own)
    return found


def columns_elsewhere(looked: Collection[Location], keyring: Keyring) -> list[str]:
    """Name the encrypted columns of this process's models that are in no database searched so far.

    Args:
        looked: The columns that were searched.
        keyring: The keys.
    """
    found = set()
    for table in encrypted_tables():
        for column in table.columns:
            if not isinstance(column.type, EncryptedString) or location_of(column) in looked:
                continue
            if _keyring_of(column, keyring) is not None:
                name = f"{table.fullname}.{column.name}"
                found.add(f"{name}, which isn't in a database that was looked at")
    return sorted(found)


def location_of(column: Column[Any]) -> Location:
    """Return the schema, table and name that a model gives its column."""
    return column.table.schema, column.table.name, column.name
