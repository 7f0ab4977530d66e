"""Read rows that somebody else may have written, with bytes in them that are no text.

SQLite stores any bytes as text, and its driver refuses to return those that aren't UTF-8. So one
planted row would make a query for many rows fail. Here such a text is returned with lone
surrogates in place of the wrong bytes. No name, state, tag or ciphertext has any, so the row is
ignored as every other planted row is. PostgreSQL stores nothing but text that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVarTuple

from sqlalchemy import Connection, LargeBinary, Row, Select, Text, cast, literal
from sqlalchemy.exc import OperationalError

__all__ = ["all_rows", "as_stored"]

Ts = TypeVarTuple("Ts")


def all_rows(connection: Connection, query: Select[*Ts]) -> Sequence[Row[*Ts]]:
    """Return the rows of a query, also if a text in one of them isn't UTF-8.

    Args:
        connection: A transaction.
        query: What is selected.
    """
    try:
        return connection.execute(query).all()
    except OperationalError:
        if connection.dialect.name != "sqlite":
            raise
    with _any_bytes(connection):
        return connection.execute(query).all()


def as_stored(value: object) -> Any:
    """Return a value of ``all_rows`` in the form in which a statement finds its row."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            stored = value.encode(errors="surrogateescape")
            return cast(literal(stored, LargeBinary), Text)
    return value


@contextmanager
def _any_bytes(connection: Connection) -> Iterator[None]:
    driver: Any = connection.connection.dbapi_connection
    before = driver.text_factory
    driver.text_factory = _with_surrogates
    try:
        yield
    finally:
        driver.text_factory = before


def _with_surrogates(stored: bytes) -> str:
    return stored.decode(errors="surrogateescape")
