"""Columns whose values are sealed, in any application's tables: found, counted, and resealed.

A token keeps its purpose inside, so a value can be put under another key without knowing what it
is bound to. Columns are found in two ways: by the models that somebody names, and by looking for
tokens in all other columns of the database, as a model or a column may have been forgotten.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Engine,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    Time,
    Uuid,
    and_,
    cast,
    column,
    func,
    inspect,
    literal,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.database.encrypted_string import EncryptedString, encrypted_tables
from pipelit_agents.database.engine import Database
from pipelit_agents.errors import ConfigurationError, PipelitError, StorageError, UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = [
    "Counted",
    "Models",
    "Place",
    "Source",
    "Spot",
    "elsewhere",
    "keyrings_of",
    "places_of",
    "scan",
    "spot_of",
]

# The schema (None for the default one), table and name of a column.
Spot: TypeAlias = tuple[str | None, str, str]
# A declarative base or its metadata, alone or with the engine of the database that it is in.
Models: TypeAlias = Any

# Every Fernet token of this century begins so: version 128, and a time before the year 2106.
_BEGINNING: Final = "gAAAAA"
_SHORTEST_TOKEN: Final = 98
# The same where bytes are shown in hexadecimal digits, as PostgreSQL shows them.
_IN_HEX: Final = _BEGINNING.encode().hex()
# Types that can't hold text, where the database enforces types.
_NO_TEXT: Final = (Boolean, Date, DateTime, Enum, Integer, Interval, Numeric, Time, Uuid)
# How many characters of one value are tried as tokens that don't open as they are: so many, and so
# many for each character of the value. Without a bound a value of many beginnings takes hours.
_TRIED: Final = 500_000
_TRIED_FOR_EACH: Final = 16
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

    def add(self, other: Counted) -> None:
        """Add what was counted elsewhere."""
        self.newest += other.newest
        for name, number in other.older.items():
            self.older[name] = self.older.get(name, 0) + number
        self.unreadable += other.unreadable
        self.not_counted += other.not_counted


@dataclass(frozen=True, slots=True)
class Source:
    """A database: ours, or that of an application.

    Attributes:
        reading: Opens a transaction that reads.
        writing: Opens a transaction that writes.
        where: What to call it in a message.
        key: What tells it from others; one database by two engines counts as two.
    """

    reading: Callable[[], AbstractContextManager[Connection]]
    writing: Callable[[], AbstractContextManager[Connection]]
    where: str
    key: int

    @classmethod
    def of(cls, database: Database) -> Source:
        """The database of a ``Pipelit``."""
        return cls(
            database.reading,
            lambda: database.writing(durable=True),
            "the database",
            id(database),
        )

    @classmethod
    def by(cls, engine: Engine) -> Source:
        """Another database, by its engine."""
        return cls(engine.connect, engine.begin, engine.url.render_as_string(), id(engine))


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

    def needs(self, keyring: Keyring) -> bool:
        """Whether its values may need one of these keys."""
        return _ring(self.column, keyring) is not None

    def count(self, keyring: Keyring, counted: Counted) -> None:
        """Count the values under each key."""
        ring = _ring(self.column, keyring)
        if ring is None:
            return
        # Not page by page: a model's key may be NULL, or not unique, in the table that is there.
        wanted = select(self.column).where(self.column.is_not(None))
        with self.source.reading() as connection:
            for (sealed,) in connection.execute(wanted, execution_options={"yield_per": _PAGE}):
                origin = ring.origin_of(sealed.token)
                if origin is None:
                    counted.unreadable.append(self.name)
                else:
                    _tell(origin, keyring, self.name, counted)

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
        if keys and self._has_null(keys):
            # No order goes through NULL.
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
                page = page.where(_after(keys, last))
            with self.source.reading() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield tuple(row[:-1]), row[-1].token
            if not keys or len(rows) < _PAGE:
                return
            last = tuple(rows[-1][:-1])

    def _has_null(self, keys: Sequence[Column[Any]]) -> bool:
        null = select(literal(1)).select_from(self.column.table)
        with self.source.reading() as connection:
            return (
                connection.scalar(null.where(or_(*(each.is_(None) for each in keys))).limit(1))
                is not None
            )


def _tell(origin: bytes, keyring: Keyring, name: str, counted: Counted) -> None:
    """Count one value by its key; of another key than these it needs none of them."""
    if origin in keyring.origins[1:]:
        counted.older[name] = counted.older.get(name, 0) + 1
    else:
        counted.newest += 1


def _ring(column: Column[Any], keyring: Keyring) -> Keyring | None:
    """What a column is sealed under; None where that shares no key with the keyring."""
    given = column.type.keyring  # type: ignore[attr-defined]
    if given is None:
        return keyring
    try:
        own = (given if isinstance(given, Keyring) else given()).snapshot()
    except PipelitError:
        return keyring
    return own if own.shares_a_key(keyring) else None


def _after(keys: Sequence[Column[Any]], last: Sequence[Any]) -> Any:
    choices = []
    for at, each in enumerate(keys):
        before = [keys[earlier] == last[earlier] for earlier in range(at)]
        choices.append(and_(*before, each > last[at]))
    return or_(*choices)


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


def keyrings_of(keyring: Keyring, *labels: str) -> list[Keyring]:
    """What may have sealed a token: the keys, and what is known to be derived from them.

    Args:
        keyring: The keys.
        labels: What else keys are derived for.
    """
    found = [keyring, *(keyring.derive(label) for label in labels)]
    for each in encrypted_tables():
        for sealed in each.columns:
            ring = _ring(sealed, keyring) if isinstance(sealed.type, EncryptedString) else None
            if ring is not None and not any(ring.has_the_keys_of(other) for other in found):
                found.append(ring)
    return found


def scan(
    here: Source, known: Collection[Spot], keyring: Keyring, rings: Sequence[Keyring]
) -> tuple[Counted, set[Spot]]:
    """Count the tokens in all columns that aren't counted otherwise.

    Args:
        here: The database.
        known: The columns that are counted otherwise.
        keyring: The keys.
        rings: What may have sealed a token.

    Returns:
        What was found, and all columns that were looked at.
    """
    counted, looked, tables = Counted(), set[Spot](), list[_Columns]()
    with here.reading() as connection:
        if connection.dialect.name == "postgresql" and connection.scalar(
            text("SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT 1")
        ):
            counted.not_counted.append(f"large objects of {here.where}, which aren't read")
        inspector = inspect(connection)
        for schema in inspector.get_schema_names():
            if schema in _SYSTEM_SCHEMAS or schema.startswith("pg_"):
                continue
            try:
                found = inspector.get_multi_columns(
                    schema=schema, kind=ObjectKind.TABLE | ObjectKind.MATERIALIZED_VIEW
                )
            except SQLAlchemyError as error:
                counted.not_counted.append(f"schema {schema}, which can't be read ({_why(error)})")
                if connection.dialect.name != "sqlite":
                    break
                continue
            default = schema == inspector.default_schema_name
            tables += [
                _Columns(schema, name, None if default else schema, columns)
                for (_, name), columns in found.items()
            ]
    for each in tables:
        _look(here, each, known, keyring, rings, counted)
        looked.update(*(each.spots(column["name"]) for column in each.columns))
    return counted, looked


@dataclass(frozen=True, slots=True)
class _Columns:
    schema: str
    table: str
    shown: str | None
    columns: Sequence[ReflectedColumn]

    @property
    def name(self) -> str:
        return f"{self.shown}.{self.table}" if self.shown else self.table

    def spots(self, column: str) -> set[Spot]:
        """What a model may call a column; it names no schema, or the default one."""
        return {(self.shown, self.table, column), (self.schema, self.table, column)}


def _look(
    here: Source,
    where: _Columns,
    known: Collection[Spot],
    keyring: Keyring,
    rings: Sequence[Keyring],
    counted: Counted,
) -> None:
    try:
        with here.reading() as connection:
            kind = connection.dialect.name
            if kind == "postgresql":
                _require_all_rows(connection, where)
    except (SQLAlchemyError, StorageError) as error:
        counted.not_counted.append(f"{where.name}, whose rows can't all be read ({_why(error)})")
        return
    for each in where.columns:
        if not where.spots(each["name"]).isdisjoint(known) or (
            kind != "sqlite" and not _may_hold(each)
        ):
            continue
        full = f"{where.name}.{each['name']}"
        try:
            with here.reading() as connection:
                if kind == "postgresql":
                    _show_all_rows(connection)
                for value in _values(connection, where, each["name"]):
                    origins, whole = _origins_in(value, rings)
                    for origin in origins:
                        _tell(origin, keyring, full, counted)
                    much = f"{full}, where a value has too much that may be a ciphertext"
                    if not whole and much not in counted.not_counted:
                        counted.not_counted.append(much)
        except (SQLAlchemyError, StorageError, ValueError) as error:
            counted.not_counted.append(f"{full}, which can't be read ({_why(error)})")


def _show_all_rows(connection: Connection) -> None:
    # Where a policy would hide rows, PostgreSQL refuses the statement instead.
    connection.execute(text("SET LOCAL row_security = off"))
    if connection.scalar(text("SELECT current_setting('row_security')")) != "off":
        # No transaction is open: the engine commits each statement by itself.
        raise StorageError("row_security can't be set")


def _require_all_rows(connection: Connection, where: _Columns) -> None:
    _show_all_rows(connection)
    one = select(literal(1)).select_from(table(where.table, schema=where.schema)).limit(1)
    connection.execute(one).all()


def _may_hold(each: ReflectedColumn) -> bool:
    kind = each["type"]
    if isinstance(kind, _NO_TEXT):
        return False
    return not isinstance(kind, String) or (kind.length or _SHORTEST_TOKEN) >= _SHORTEST_TOKEN


def _values(connection: Connection, where: _Columns, name: str) -> Iterator[bytes]:
    """What a column holds that may be a token, whatever its type."""
    stored: Any = column(name)
    if connection.dialect.name == "sqlite":
        # Any column may hold any type there. The bytes are those of the file's encoding.
        shown: Any = cast(stored, LargeBinary)
        may = or_(
            func.instr(shown, literal(_BEGINNING.encode(), LargeBinary)) > 0,
            func.instr(stored, _BEGINNING) > 0,
        )
    else:
        shown = cast(stored, Text)
        may = or_(shown.like(f"%{_BEGINNING}%"), shown.like(f"%{_IN_HEX}%"))
    wanted = select(shown).select_from(table(where.table, schema=where.schema)).where(may)
    for (value,) in connection.execute(wanted, execution_options={"yield_per": _PAGE}):
        yield value.encode() if isinstance(value, str) else bytes(value)


def _origins_in(value: bytes, rings: Sequence[Keyring]) -> tuple[list[bytes], bool]:
    """The origins of the tokens in a value, and whether everything was tried.

    A value may hold several, with anything around them, or one in a document of JSON.
    """
    value = value.replace(b"\0", b"")
    values = [value]
    if _IN_HEX.encode() in value:
        runs = re.findall(rb"[0-9a-f]{%d,}" % (2 * _SHORTEST_TOKEN), value)
        values += [_unhexed(each[skipped:]) for each in runs for skipped in (0, 1)]
    found, left = list[bytes](), (_TRIED + _TRIED_FOR_EACH * len(value)) * len(rings)
    for each in values:
        # Without what wraps the lines of a document.
        joined = re.sub(r"\s+|\\[nrt]", "", each.decode("latin-1"))
        at = joined.find(_BEGINNING)
        while at >= 0:
            if left < 0:
                return found, False
            end = at + len(_BEGINNING)
            run = _RUN.match(joined, end)
            end = run.end() if run else end
            origin, length = _sealed_by(joined[at:end], rings)
            if origin is None:
                left -= (end - at) * len(rings)
            else:
                found.append(origin)
            at = joined.find(_BEGINNING, at + length)
    return found, True


_RUN: Final = re.compile(r"[A-Za-z0-9_-]+")


def _sealed_by(written: str, rings: Sequence[Keyring]) -> tuple[bytes | None, int]:
    """The origin of the key of the token that a text begins with, and the token's length."""
    if len(written) < _SHORTEST_TOKEN:
        return None, 1
    padded = written + "=" * (-len(written) % 4)
    for ring in rings:
        origin = ring.origin_of(padded)
        if origin is not None:
            return origin, len(written)
    # One character behind groups of four is no byte.
    whole = written[:-1] if len(written) % 4 == 1 else written
    content = base64.urlsafe_b64decode(whole + "=" * (-len(whole) % 4))
    for ring in rings:
        within = ring.origin_within(content)
        if within is not None:
            return within[0], -(-within[1] * 4 // 3)
    return None, 1


def _unhexed(digits: bytes) -> bytes:
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))


def elsewhere(looked: Collection[Spot], keyring: Keyring) -> list[str]:
    """The sealed columns that this process knows and that are in no database that was looked at.

    Args:
        looked: The columns that were looked at.
        keyring: The keys.
    """
    found = set()
    for each in encrypted_tables():
        for sealed in each.columns:
            if not isinstance(sealed.type, EncryptedString) or spot_of(sealed) in looked:
                continue
            if _ring(sealed, keyring) is not None:
                name = f"{each.fullname}.{sealed.name}"
                found.add(f"{name}, which isn't in a database that was looked at")
    return sorted(found)


def spot_of(column: Column[Any]) -> Spot:
    """Where a model says that its column is."""
    return column.table.schema, column.table.name, column.name


def _why(error: Exception) -> str:
    cause = getattr(error, "orig", None)
    return type(cause or error).__name__
