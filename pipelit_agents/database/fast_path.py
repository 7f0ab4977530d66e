"""Run statements with the driver itself, within SQLAlchemy's connections and transactions.

This is for the few statements that every verification runs. SQLAlchemy's result handling takes
several times as long as SQLite's query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from sqlalchemy import Dialect, PoolProxiedConnection, text
from sqlalchemy.exc import DBAPIError

__all__ = ["Flag", "Open", "Query", "Row", "Statement", "Transaction", "Values", "named_by_driver"]

Row = TypeVar("Row", bound=NamedTuple)
# A Boolean column in the row of a query: SQLite's driver returns 0 or 1.
Flag: TypeAlias = int
# The parameters of a statement, by name.
Values: TypeAlias = Mapping[str, object]
# A row as the driver returns it.
DriverRow: TypeAlias = Sequence[Any]
V = TypeVar("V", bound=Values)


class Open(Protocol):
    """A connection to run statements on: SQLAlchemy's ``Connection``, or a ``Transaction``."""

    @property
    def connection(self) -> PoolProxiedConnection:
        """The driver's connection, in the pool's wrapper."""

    @property
    def dialect(self) -> Dialect:
        """The kind of database."""


class Transaction(NamedTuple):
    """A transaction of the driver, for statements.

    Attributes:
        connection: The driver's connection, in the pool's wrapper.
        dialect: The kind of database.
    """

    connection: PoolProxiedConnection
    dialect: Dialect

    def commit(self) -> None:
        """Commit.

        Raises:
            DBAPIError: The database refused.
        """
        try:
            self.connection.commit()
        except Exception as error:
            raise named_by_driver(self.dialect, error) from None

    def rollback(self) -> None:
        """Roll back. The connection is in no transaction afterwards."""
        self.connection.rollback()


class Statement:
    """SQL with named parameters, ``:name``, for any kind of database.

    Args:
        sql: The SQL.
    """

    def __init__(self, sql: str) -> None:
        self.sql: Final = sql
        self._prepared: dict[str, tuple[str, Sequence[str] | None]] = {}

    def write(self, connection: Open, values: Values, *more: Values) -> int:
        """Run the statement in a transaction, once for each set of values.

        Returns:
            The number of changed rows.

        Raises:
            DBAPIError: The database refused the statement.
        """
        sql, order = self._for(connection.dialect)
        sets = (values, *more)
        parameters: Sequence[Values] | Sequence[Sequence[object]] = (
            sets if order is None else [[each[name] for name in order] for each in sets]
        )
        cursor = connection.connection.cursor()
        try:
            if more:
                cursor.executemany(sql, parameters)
            else:
                cursor.execute(sql, parameters[0])
            changed: int = cursor.rowcount
        except Exception as error:
            raise named_by_driver(connection.dialect, error) from None
        else:
            return changed
        finally:
            cursor.close()

    def write_each(self, connection: Open, values: Sequence[V]) -> Sequence[V]:
        """Run the statement on PostgreSQL for each of several sets of values.

        Returns:
            The sets of values that changed no row.

        Raises:
            DBAPIError: The database refused the statement.
        """
        sql, _ = self._for(connection.dialect)
        # psycopg's, which has more than other drivers.
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
        # Drivers of one kind of database differ in how they write parameters.
        found = self._prepared.get(dialect.driver)
        if found is None:
            compiled = text(self.sql).compile(dialect=dialect)
            order: Sequence[str] | None = getattr(compiled, "positiontup", None)
            found = self._prepared[dialect.driver] = (str(compiled), order)
        return found


class Query(Statement, Generic[Row]):
    """A statement that reads.

    Args:
        sql: The SQL.
        row: The type of a row, a ``NamedTuple`` with the names of the columns in their order. The
            values have the driver's types, so a Boolean is a ``Flag``.
    """

    def __init__(self, sql: str, row: type[Row]) -> None:
        super().__init__(sql)
        self._row: Final = row
        self._make: Callable[[DriverRow], Row] | None = None

    def fetch(self, connection: Open, values: Values) -> list[Row]:
        """Run the statement in a transaction, and return all rows.

        Raises:
            DBAPIError: The database refused the statement.
        """
        return self.fetch_by(connection.connection, connection.dialect, values)

    def fetch_by(
        self, driver: PoolProxiedConnection, dialect: Dialect, values: Values
    ) -> list[Row]:
        """Run ``fetch`` on a driver's connection in the pool's wrapper."""
        cursor = driver.cursor()
        try:
            sql, order = self._for(dialect)
            cursor.execute(sql, values if order is None else [values[name] for name in order])
            rows = cursor.fetchall()
            if self._make is None:
                self._make = self.maker([column[0] for column in cursor.description or ()])
        except Exception as error:
            raise named_by_driver(dialect, error) from None
        finally:
            cursor.close()
        return list(map(self._make, rows))

    def maker(self, columns: Sequence[str]) -> Callable[[DriverRow], Row]:
        """Return what makes a row of the driver's. It is called once, at the first use.

        Raises:
            TypeError: The fields aren't the columns; values are assigned by their order.
        """
        if tuple(columns) != self._row._fields:
            raise TypeError(f"{self._row.__name__} must have the fields {', '.join(columns)}")
        return self._row._make


def named_by_driver(dialect: Dialect, error: Exception) -> Exception:
    """Return SQLAlchemy's form of a driver's error, without parameters. Return others unchanged."""
    driver = dialect.dbapi
    if driver is None or not isinstance(error, driver.Error):
        return error
    return DBAPIError.instance(
        None, None, error, driver.Error, hide_parameters=True, dialect=dialect
    )
