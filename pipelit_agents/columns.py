"""Columns whose values are sealed, in any application's tables: found, counted, and resealed.

A token keeps its purpose inside, so a value can be put under another key without knowing what it
is bound to. Columns are found in two ways: by the models that somebody names, and by looking for
tokens in all other tables of the database, as a model may have been forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    String,
    Table,
    and_,
    column,
    inspect,
    or_,
    select,
    table,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import JSON

from pipelit_agents.database.engine import Database
from pipelit_agents.database.types import EncryptedString, encrypted_tables
from pipelit_agents.errors import ConfigurationError, PipelitError, StorageError, UnsealError
from pipelit_agents.keyring import Keyring, Sealed

__all__ = ["Counted", "Models", "Place", "Source", "elsewhere", "places_of", "scan"]

# A declarative base or its metadata, alone or with the engine of the database that it is in.
Models: TypeAlias = Any

# Every Fernet token of this century begins so: version 128, and a time before the year 2106.
_BEGINNING: Final = "gAAAAA"
_SHORTEST_COLUMN: Final = 100
_SYSTEM_SCHEMAS: Final = ("information_schema", "pg_catalog", "pg_toast")
_PAGE: Final = 500


@dataclass(slots=True)
class Counted:
    """What was counted.

    Attributes:
        newest: Values under the newest key.
        older: How many values are under an older key, by column.
        unreadable: Where values are that no key opens.
        not_counted: What couldn't be looked at, and why.
    """

    newest: int = 0
    older: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """A database: ours, or that of an application.

    Attributes:
        reading: Opens a transaction that reads.
        writing: Opens a transaction that writes.
        where: What to call it in a message.
    """

    reading: Callable[[], AbstractContextManager[Connection]]
    writing: Callable[[], AbstractContextManager[Connection]]
    where: str

    @classmethod
    def of(cls, database: Database) -> Source:
        """The database of a ``Pipelit``."""
        return cls(database.reading, lambda: database.writing(durable=True), "the database")

    @classmethod
    def by(cls, engine: Engine) -> Source:
        """Another database, by its engine."""
        return cls(engine.connect, engine.begin, engine.url.render_as_string())


@dataclass(frozen=True, slots=True)
class Place:
    """One sealed column.

    Attributes:
        column: The column.
        source: Where its table is.
    """

    column: Column[Any]
    source: Source

    @property
    def name(self) -> str:
        """``table.column``, with its schema if it has one."""
        return f"{self.column.table.fullname}.{self.column.name}"

    def count(self, keyring: Keyring, counted: Counted) -> None:
        """Count the values under each key."""
        ring = _ring(self.column, keyring)
        if ring is None:
            return
        for _, token in self._tokens():
            if ring.is_newest(token):
                counted.newest += 1
            elif _opens(ring, token):
                counted.older[self.name] = counted.older.get(self.name, 0) + 1
            else:
                counted.unreadable.append(self.name)

    def reseal(self, keyring: Keyring, batch: int) -> int:
        """Put the values that are under an older key under the newest one.

        Each is replaced only where it is still what was read.

        Returns:
            How many were replaced.
        """
        ring, pending, replaced = _ring(self.column, keyring), list[tuple[Any, str, str]](), 0
        if ring is None:
            return 0
        for key, token in self._tokens():
            if not ring.is_newest(token):
                try:
                    pending.append((key, token, ring.renew(token)))
                except UnsealError:
                    # It stays as it is, and the status names it.
                    continue
            if len(pending) >= batch:
                replaced += self._swap(pending)
                pending = []
        return replaced + self._swap(pending)

    def _swap(self, pending: Sequence[tuple[Any, str, str]]) -> int:
        if not pending:
            return 0
        replaced = 0
        with self.source.writing() as connection:
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

    def _tokens(self) -> Iterator[tuple[tuple[Any, ...], str]]:
        """Each row's key and token, page by page, so that no transaction stays open."""
        keys, last = self._keys, None
        wanted = select(*keys, self.column).where(self.column.is_not(None))
        while True:
            page = wanted.order_by(*keys).limit(_PAGE) if keys else wanted
            if last is not None:
                page = page.where(_after(keys, last))
            with self.source.reading() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield tuple(row[:-1]), row[-1].token
            if not keys or len(rows) < _PAGE:
                return
            last = tuple(rows[-1][:-1])


def _ring(column: Column[Any], keyring: Keyring) -> Keyring | None:
    """What a column is sealed under; None where that shares no key with the keyring."""
    given = column.type.keyring  # type: ignore[attr-defined]
    if given is None:
        return keyring
    try:
        own: Keyring = given if isinstance(given, Keyring) else given()
    except PipelitError:
        return keyring
    return own if own.shares_a_key(keyring) else None


def _after(keys: Sequence[Column[Any]], last: Sequence[Any]) -> Any:
    choices = []
    for at, each in enumerate(keys):
        before = [keys[earlier] == last[earlier] for earlier in range(at)]
        choices.append(and_(*before, each > last[at]))
    return or_(*choices)


def _opens(keyring: Keyring, token: str) -> bool:
    try:
        keyring.require_opening(token)
    except UnsealError:
        return False
    return True


def places_of(models: Sequence[Models], here: Source) -> list[Place]:
    """The sealed columns of models.

    Args:
        models: Declarative bases or their metadata. A pair, ``(Base, engine)``, says that they are
            in another database.
        here: Where those are that come without an engine.

    Raises:
        ConfigurationError: A table isn't there: what it holds would not be counted.
        TypeError: It is no list of models.
    """
    if isinstance(models, str | bytes | MetaData | type) or not isinstance(models, Collection):
        raise TypeError("models has to be a list: models=[Base.metadata]")
    found = []
    for each in models:
        named, engine = each if isinstance(each, tuple) and len(each) == 2 else (each, None)
        metadata = named if isinstance(named, MetaData) else getattr(named, "metadata", None)
        if not isinstance(metadata, MetaData) or not isinstance(engine, Engine | None):
            raise TypeError(
                "each of models has to be a declarative base or its metadata, alone or in a pair "
                "with the engine of its database: models=[Base.metadata, (Other.metadata, engine)]"
            )
        source = here if engine is None else Source.by(engine)
        sealed = [
            column
            for table in metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, EncryptedString)
        ]
        _require_there({column.table for column in sealed}, source)
        found += [Place(column, source) for column in sealed]
    return found


def _require_there(tables: Collection[Table], source: Source) -> None:
    with source.reading() as connection:
        inspector = inspect(connection)
        gone = [each for each in tables if not inspector.has_table(each.name, each.schema)]
    if gone:
        raise ConfigurationError(
            f"models: there is no table {gone[0].fullname} in {source.where}. If it is in another "
            "database, name that one's engine: models=[(Base.metadata, engine)]"
        )


def scan(here: Source, known: Collection[str], keyring: Keyring) -> tuple[Counted, set[str]]:
    """Count the tokens in all tables that no model has named.

    Args:
        here: The database.
        known: The full names of the tables that are counted otherwise.
        keyring: The keys.

    Returns:
        What was found, and the full names of all tables.
    """
    counted, tables = Counted(), set[str]()
    with here.reading() as connection:
        wanted = list(_text_columns(connection, tables))
    for schema, name, text in wanted:
        full = f"{schema}.{name}" if schema else name
        if full in known:
            continue
        try:
            _look(here, schema, name, text, keyring, counted)
        except (SQLAlchemyError, StorageError) as error:
            counted.not_counted.append(f"{full}.{text}, which can't be read ({_why(error)})")
    return counted, tables


def _text_columns(
    connection: Connection, tables: set[str]
) -> Iterator[tuple[str | None, str, str]]:
    inspector = inspect(connection)
    default = inspector.default_schema_name
    for schema in inspector.get_schema_names():
        if schema in _SYSTEM_SCHEMAS or schema.startswith("pg_"):
            continue
        named = None if schema == default else schema
        columns: Mapping[Any, Any] = inspector.get_multi_columns(schema=named)
        for (_, name), found in columns.items():
            tables.add(f"{named}.{name}" if named else name)
            for each in found:
                kind = each["type"]
                # A type of the database's own that SQLAlchemy doesn't know may be text too.
                text = isinstance(kind, String) and (kind.length or _SHORTEST_COLUMN)
                if (text and text >= _SHORTEST_COLUMN) or isinstance(kind, JSON):
                    yield named, name, each["name"]


def _look(
    here: Source, schema: str | None, name: str, text: str, keyring: Keyring, counted: Counted
) -> None:
    sealed = column(text, String)
    wanted = select(sealed).select_from(table(name, schema=schema))
    full = ".".join(filter(None, (schema, name, text)))
    with here.reading() as connection:
        rows = connection.execute(
            wanted.where(sealed.cast(String).like(f"%{_BEGINNING}%")),
            execution_options={"yield_per": _PAGE},
        )
        for (token,) in rows:
            for each in _tokens_in(str(token)):
                if keyring.is_newest(each):
                    counted.newest += 1
                elif _opens(keyring, each):
                    counted.older[full] = counted.older.get(full, 0) + 1


def _tokens_in(text: str) -> Iterator[str]:
    # A column of somebody's may hold several, or one in a document of JSON.
    at = text.find(_BEGINNING)
    while at >= 0:
        end = at
        while end < len(text) and (text[end].isalnum() or text[end] in "-_="):
            end += 1
        yield text[at:end]
        at = text.find(_BEGINNING, end)


def elsewhere(known: Collection[str], keyring: Keyring) -> list[str]:
    """The sealed tables that this process knows and that were not counted."""
    found = set()
    for each in encrypted_tables():
        if each.fullname in known:
            continue
        for sealed in each.columns:
            if isinstance(sealed.type, EncryptedString) and _ring(sealed, keyring) is not None:
                name = f"{each.fullname}.{sealed.name}"
                found.add(f"{name}, whose table isn't in a database that was looked at")
    return sorted(found)


def _why(error: Exception) -> str:
    return type(error).__name__
