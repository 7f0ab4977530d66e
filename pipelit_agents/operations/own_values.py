"""The encrypted values of this package's own tables: counted, and encrypted again.

A value is replaced only if it didn't change since it was read, so a value that is written during a
rotation isn't lost. Values under the newest key are left alone, so a rotation that was killed
continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, Connection, func, select, tuple_, update

from pipelit_agents.database.application_columns import after
from pipelit_agents.database.engine import Database
from pipelit_agents.database.key_counts import Counted
from pipelit_agents.database.key_row import fitting_keyring
from pipelit_agents.database.planted import all_rows, as_stored
from pipelit_agents.database.row_encryption import AnyRow, Key
from pipelit_agents.database.sealed_columns import SealedTable, key_text, sealed_tables
from pipelit_agents.errors import StorageError, UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = ["OwnValues", "UnreadableRow"]

_PAGE: Final = 500
# Reports how many of how many rows are done.
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row with values that no key decrypts.

    Attributes:
        table: The row's table.
        key: The row's primary key.
        tokens: Such values by their columns, as they were read; None where the row can't be read.
    """

    table: SealedTable
    key: Key
    tokens: Mapping[str, str | None]

    @property
    def unchanged(self) -> list[ColumnElement[bool]]:
        """The conditions for this row, if its values are still those that were read."""
        key = zip(self.table.key, self.key, strict=True)
        is_row = [column == as_stored(value) for column, value in key]
        read = {name: token for name, token in self.tokens.items() if token is not None}
        columns = self.table.table.c
        return is_row + [columns[name] == Sealed(token, "") for name, token in read.items()]


@dataclass(frozen=True, slots=True)
class _Unread:
    """A row that the database driver can't read."""

    key: Key


@dataclass(frozen=True, slots=True)
class _Renewed:
    """A row's ciphertexts by column, as they were read, and what replaces them."""

    row: AnyRow
    old: dict[str, str]
    new: dict[str, str]


class OwnValues:
    """The encrypted values of one database.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, keyring: Keyring) -> Counted:
        """Count the values under each key, and name those that can't be decrypted."""
        counted = Counted()
        for table in sealed_tables():
            for row in self._rows(table):
                if isinstance(row, _Unread):
                    shown = row.key[0] if len(row.key) == 1 else row.key
                    counted.unreadable.append(f"{table.table.name} of {shown!r:.80}")
                    continue
                for name, token in table.tokens(row):
                    if keyring.is_newest(token):
                        counted.newest += 1
                        continue
                    try:
                        table.require_readable(keyring, row, name, token)
                        counted.add_older(table.table.name)
                    except UnsealError:
                        key = key_text(table.key_of(row))
                        counted.unreadable.append(f"{table.table.name}.{name} of {key}")
        return counted

    def unreadable(self, keyring: Keyring) -> Iterator[UnreadableRow]:
        """Yield the rows with values that no key decrypts."""
        for table in sealed_tables():
            for row in list(self._rows(table)):
                if isinstance(row, _Unread):
                    yield UnreadableRow(table, row.key, dict.fromkeys(table.columns))
                elif tokens := table.unreadable(keyring, row):
                    yield UnreadableRow(table, table.key_of(row), tokens)

    def encrypt_again(self, keyring: Keyring, batch: int, progress: Progress) -> int:
        """Encrypt the values under older keys again, under the newest one.

        Args:
            keyring: The keys.
            batch: How many rows are replaced in one transaction.
            progress: Receives how many of how many rows are done.

        Returns:
            How many values were replaced.
        """
        tables = sealed_tables()
        with self._database.reading() as connection:
            total = sum(
                connection.scalar(select(func.count()).select_from(each.table)) or 0
                for each in tables
            )
        done = replaced = 0
        for table in tables:
            pending: list[_Renewed] = []
            for row in self._rows(table):
                done += 1
                renewed = None if isinstance(row, _Unread) else _renewed(table, row, keyring)
                if renewed:
                    pending.append(renewed)
                if len(pending) >= batch:
                    replaced += self._replace(table, pending, keyring)
                    pending = []
                    progress(done, total)
            replaced += self._replace(table, pending, keyring)
            progress(done, total)
        return replaced

    def _replace(self, table: SealedTable, pending: Sequence[_Renewed], keyring: Keyring) -> int:
        if not pending:
            return 0
        with self._database.writing(durable=True) as connection:
            locks = {table.rules.lock_of(each.row) for each in pending} - {""}
            self._database.lock(connection, *sorted(locks), shared=True)
            # Another rotation may have replaced the key that these values are under now.
            fitting_keyring(connection, keyring)
            return sum(_swap(connection, table, each) for each in pending)

    def _rows(self, table: SealedTable) -> Iterator[AnyRow | _Unread]:
        last: Key | None = None
        while True:
            wanted = select(*table.key).order_by(*table.key).limit(_PAGE)
            if last is not None:
                wanted = wanted.where(after(table.key, [as_stored(each) for each in last]))
            with self._database.reading() as connection:
                keys = [tuple(row) for row in all_rows(connection, wanted)]
            if not keys:
                return
            try:
                yield from self._read(table, keys)
            except StorageError:
                # One of the rows can't be read. The others can.
                for key in keys:
                    try:
                        yield from self._read(table, [key])
                    except StorageError:
                        yield _Unread(key)
            last = keys[-1]

    def _read(self, table: SealedTable, keys: Sequence[Key]) -> Sequence[AnyRow]:
        is_one = tuple_(*table.key).in_(keys)
        if len(table.key) == 1:
            is_one = table.key[0].in_([value for (value,) in keys])
        with self._database.reading() as connection:
            return connection.execute(
                select(*table.needed).where(is_one).order_by(*table.key)
            ).all()


def _renewed(table: SealedTable, row: AnyRow, keyring: Keyring) -> _Renewed | None:
    """Return a row's values under the newest key; None where nothing must be replaced."""
    old = {name: token for name, token in table.tokens(row) if not keyring.is_newest(token)}
    try:
        new = {name: table.encrypt_again(keyring, row, name, token) for name, token in old.items()}
    except UnsealError:
        # The row stays, and the status names it.
        return None
    return _Renewed(row, old, new) if new else None


def _swap(connection: Connection, table: SealedTable, renewed: _Renewed) -> int:
    key = zip(table.key, table.key_of(renewed.row), strict=True)
    same = [table.table.c[name] == Sealed(token, "") for name, token in renewed.old.items()]
    swapped = connection.execute(
        update(table.table)
        .where(*(column == value for column, value in key), *same)
        .values({name: Sealed(token, "") for name, token in renewed.new.items()})
    )
    return len(renewed.new) if swapped.rowcount else 0
