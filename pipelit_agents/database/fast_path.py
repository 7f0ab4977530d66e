"""Statements that the driver runs itself, within SQLAlchemy's connections and transactions.

For the few that run at every check: SQLAlchemy's own way to a result costs several times what
SQLite takes to find it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from sqlalchemy import Dialect, PoolProxiedConnection, text
from sqlalchemy.exc import DBAPIError

__all__ = ["Open", "Statement", "Transaction", "named_by_driver"]


class Open(Protocol):
    """What a statement is run on: SQLAlchemy's ``Connection``, or a :class:`Transaction`."""

    @property
    def connection(self) -> PoolProxiedConnection:
        """The driver's connection, as the pool has it."""

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""


class Transaction(NamedTuple):
    """A transaction of the driver's own, for statements.

    Attributes:
        connection: The driver's connection, as the pool has it.
        dialect: Which database it is.
    """

    connection: PoolProxiedConnection
    dialect: Dialect

    def rollback(self) -> None:
        """Undoes what was written; whoever is in the transaction goes on in none."""
        self.connection.rollback()


class Statement:
    """SQL with named parameters, ``:name``, for whichever database it is run on.

    Args:
        sql: The SQL. Values come back as the driver gives them.
    """

    def __init__(self, sql: str) -> None:
        self.sql: Final = sql
        self._prepared: dict[str, tuple[str, Sequence[str] | None]] = {}
        self._row: Any = None

    def fetch(self, connection: Open, values: Mapping[str, Any]) -> list[Any]:
        """Runs it in a transaction, and returns all rows, their columns by name.

        Raises:
            DBAPIError: The database refused.
        """
        return self.fetch_by(connection.connection, connection.dialect, values)

    def fetch_by(
        self, driver: PoolProxiedConnection, dialect: Dialect, values: Mapping[str, Any]
    ) -> list[Any]:
        """As :meth:`fetch`, on a driver's connection as the pool has it."""
        cursor = driver.cursor()
        try:
            sql, order = self._for(dialect)
            cursor.execute(sql, values if order is None else [values[name] for name in order])
            rows = cursor.fetchall()
            if self._row is None:
                names = [column[0] for column in cursor.description or ()]
                row: Any = namedtuple("Row", names)  # type: ignore[misc]
                self._row = row._make
        except Exception as error:
            raise named_by_driver(dialect, error) from None
        finally:
            cursor.close()
        return list(map(self._row, rows))

    def write(self, connection: Open, values: dict[str, Any] | Sequence[dict[str, Any]]) -> int:
        """Runs it in a transaction, once or for each of several; how many rows it changed.

        Raises:
            DBAPIError: The database refused.
        """
        sql, order = self._for(connection.dialect)
        many = [values] if isinstance(values, dict) else values
        given: list[Any] = [
            each if order is None else [each[name] for name in order] for each in many
        ]
        cursor = connection.connection.cursor()
        try:
            if len(given) == 1:
                cursor.execute(sql, given[0])
            else:
                cursor.executemany(sql, given)
            changed: int = cursor.rowcount
        except Exception as error:
            raise named_by_driver(connection.dialect, error) from None
        else:
            return changed
        finally:
            cursor.close()

    def write_each(
        self, connection: Open, values: Sequence[dict[str, Any]]
    ) -> Sequence[dict[str, Any]]:
        """Runs it for each of several, on PostgreSQL; those of them that changed no row.

        Raises:
            DBAPIError: The database refused.
        """
        sql, _ = self._for(connection.dialect)
        cursor: Any = connection.connection.cursor()
        try:
            if len(values) == 1:
                cursor.execute(sql, values[0])
                return [] if cursor.rowcount else values
            cursor.executemany(sql, values, returning=True)
            left = []
            for each in values:
                if not cursor.rowcount:
                    left.append(each)
                cursor.nextset()
        except Exception as error:
            raise named_by_driver(connection.dialect, error) from None
        else:
            return left
        finally:
            cursor.close()

    def _for(self, dialect: Dialect) -> tuple[str, Sequence[str] | None]:
        found = self._prepared.get(dialect.name)
        if found is None:
            compiled: Any = text(self.sql).compile(dialect=dialect)
            found = self._prepared[dialect.name] = (str(compiled), compiled.positiontup)
        return found


def named_by_driver(dialect: Dialect, error: Exception) -> Exception:
    """A driver's error as SQLAlchemy names it, without parameters; any other as it is."""
    driver: Any = dialect.dbapi
    if not isinstance(error, driver.Error):
        return error
    named: Exception = DBAPIError.instance(
        None, None, error, driver.Error, hide_parameters=True, dialect=dialect
    )
    return named
