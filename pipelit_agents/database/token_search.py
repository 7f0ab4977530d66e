"""Ciphertexts in any column of a database, also in columns that no model names.

A model or a column may have been forgotten. Its values need their key all the same, so
``keys status`` searches every column that can hold text or bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    Boolean,
    Connection,
    Date,
    DateTime,
    Enum,
    Integer,
    Interval,
    Numeric,
    String,
    Text,
    Time,
    Uuid,
    cast,
    column,
    inspect,
    literal,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import SQLAlchemyError

from pipelit_agents.database.application_columns import Location, Source
from pipelit_agents.database.key_counts import Counted
from pipelit_agents.errors import StorageError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["search_columns"]

# Every Fernet token of this century begins so: version 128, and a time before the year 2106.
_BEGINNING: Final = "gAAAAA"
_SHORTEST_TOKEN: Final = 98
# The same in hexadecimal digits, as PostgreSQL shows bytes.
_IN_HEX: Final = _BEGINNING.encode().hex()
# Types that can't hold text, in databases that enforce types.
_NO_TEXT: Final = (Boolean, Date, DateTime, Enum, Integer, Interval, Numeric, Time, Uuid)
# How many characters of one value are tried as tokens that can't be decrypted as they are: a fixed
# number, plus a number for each character of the value. Without a bound, a value with many
# beginnings takes hours.
_TRIED: Final = 500_000
_TRIED_FOR_EACH: Final = 16
_SYSTEM_SCHEMAS: Final = ("information_schema", "pg_catalog", "pg_toast")
_PAGE: Final = 500


def search_columns(
    here: Source, known: Collection[Location], keyring: Keyring, keyrings: Sequence[Keyring]
) -> tuple[Counted, set[Location]]:
    """Count the tokens in all columns but those that are counted otherwise.

    Args:
        here: The database.
        known: The columns that are counted otherwise.
        keyring: The keys.
        keyrings: The keyrings that may have encrypted a token.

    Returns:
        The counts, and all columns that the database has.
    """
    counted, looked, tables = Counted(), set[Location](), list[_Columns]()
    with here.reading() as connection:
        if connection.dialect.name == "postgresql" and connection.scalar(
            text("SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT 1")
        ):
            counted.not_counted.append(f"large objects of {here.name}, which aren't read")
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
        _look(here, each, known, keyring, keyrings, counted)
        looked.update(*(each.locations(column["name"]) for column in each.columns))
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

    def locations(self, column: str) -> set[Location]:
        """Return how models may name a column: without a schema, or with the default one."""
        return {(self.shown, self.table, column), (self.schema, self.table, column)}


def _look(
    here: Source,
    where: _Columns,
    known: Collection[Location],
    keyring: Keyring,
    keyrings: Sequence[Keyring],
    counted: Counted,
) -> None:
    try:
        with here.reading() as connection:
            kind = connection.dialect.name
            if kind == "postgresql":
                _show_all_rows(connection)
            if not _has_rows(connection, where):
                return
    except (SQLAlchemyError, StorageError) as error:
        counted.not_counted.append(f"{where.name}, whose rows can't all be read ({_why(error)})")
        return
    for each in where.columns:
        if not where.locations(each["name"]).isdisjoint(known) or (
            kind != "sqlite" and not _may_hold(each)
        ):
            continue
        full = f"{where.name}.{each['name']}"
        try:
            with here.reading() as connection:
                if kind == "postgresql":
                    _show_all_rows(connection)
                for value in _values(connection, where, each["name"]):
                    origins, whole = _origins_in(value, keyrings)
                    for origin in origins:
                        counted.add_value(origin, keyring, full)
                    much = f"{full}, where a value has too much that may be a ciphertext"
                    if not whole and much not in counted.not_counted:
                        counted.not_counted.append(much)
        except (SQLAlchemyError, StorageError, ValueError) as error:
            counted.not_counted.append(f"{full}, which can't be read ({_why(error)})")


def _show_all_rows(connection: Connection) -> None:
    # PostgreSQL then refuses a statement whose rows a policy would hide.
    connection.execute(text("SET LOCAL row_security = off"))
    if connection.scalar(text("SELECT current_setting('row_security')")) != "off":
        # No transaction is open: the engine commits each statement by itself.
        raise StorageError("row_security can't be set")


def _has_rows(connection: Connection, where: _Columns) -> bool:
    one = select(literal(1)).select_from(table(where.table, schema=where.schema)).limit(1)
    return connection.execute(one).first() is not None


def _may_hold(each: ReflectedColumn) -> bool:
    kind = each["type"]
    if isinstance(kind, _NO_TEXT):
        return False
    return not isinstance(kind, String) or (kind.length or _SHORTEST_TOKEN) >= _SHORTEST_TOKEN


def _values(connection: Connection, where: _Columns, name: str) -> Iterator[bytes]:
    """Yield the values of a column that may contain a token, whatever the column's type."""
    paged = {"yield_per": _PAGE}
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql(
            _in_sqlite(connection, where, name),
            (_BEGINNING.encode(), _BEGINNING),
            execution_options=paged,
        )
    else:
        shown = cast(column(name), Text)
        may = or_(shown.like(f"%{_BEGINNING}%"), shown.like(f"%{_IN_HEX}%"))
        wanted = select(shown).select_from(table(where.table, schema=where.schema)).where(may)
        found = connection.execute(wanted, execution_options=paged)
    for (value,) in found:
        yield value.encode() if isinstance(value, str) else bytes(value)


def _in_sqlite(connection: Connection, where: _Columns, name: str) -> str:
    # SQLite stores any type in any column. The bytes are in the encoding of the file. As text,
    # because compiling a statement for each column takes longer than running it.
    preparer = connection.dialect.identifier_preparer
    stored = preparer.quote(name)
    rows = preparer.format_table(table(where.table, schema=where.schema))
    shown = f"CAST({stored} AS BLOB)"
    return f"SELECT {shown} FROM {rows} WHERE instr({shown}, ?) > 0 OR instr({stored}, ?) > 0"  # noqa: S608


def _origins_in(value: bytes, keyrings: Sequence[Keyring]) -> tuple[list[bytes], bool]:
    """Return the origins of the tokens in a value, and whether the whole value was searched.

    A value may contain several tokens, with any text around them, as a JSON document does.
    """
    value = value.replace(b"\0", b"")
    values = [value]
    if _IN_HEX.encode() in value:
        runs = re.findall(rb"[0-9a-f]{%d,}" % (2 * _SHORTEST_TOKEN), value)
        values += [_unhexed(each[skipped:]) for each in runs for skipped in (0, 1)]
    found, left = list[bytes](), (_TRIED + _TRIED_FOR_EACH * len(value)) * len(keyrings)
    for each in values:
        # Without line breaks, as a document may wrap a token.
        joined = re.sub(r"\s+|\\[nrt]", "", each.decode("latin-1"))
        at = joined.find(_BEGINNING)
        while at >= 0:
            if left < 0:
                return found, False
            end = at + len(_BEGINNING)
            run = _RUN.match(joined, end)
            end = run.end() if run else end
            origin, length = _origin_of(joined[at:end], keyrings)
            if origin is None:
                left -= (end - at) * len(keyrings)
            else:
                found.append(origin)
            at = joined.find(_BEGINNING, at + length)
    return found, True


_RUN: Final = re.compile(r"[A-Za-z0-9_-]+")


def _origin_of(written: str, keyrings: Sequence[Keyring]) -> tuple[bytes | None, int]:
    """Return the key's origin of the token that a text begins with, and the token's length."""
    if len(written) < _SHORTEST_TOKEN:
        return None, 1
    padded = written + "=" * (-len(written) % 4)
    for each in keyrings:
        origin = each.origin_of(padded)
        if origin is not None:
            return origin, len(written)
    # A single character after the groups of four encodes no byte.
    whole = written[:-1] if len(written) % 4 == 1 else written
    content = base64.urlsafe_b64decode(whole + "=" * (-len(whole) % 4))
    for each in keyrings:
        within = each.origin_within(content)
        if within is not None:
            return within[0], -(-within[1] * 4 // 3)
    return None, 1


def _unhexed(digits: bytes) -> bytes:
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))


def _why(error: Exception) -> str:
    cause = getattr(error, "orig", None)
    return type(cause or error).__name__
