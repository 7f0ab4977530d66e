"""The encrypted columns and the tags of this package's own tables, derived from the models.

Everything that has to know them asks here: rotation, ``keys status`` and ``keys forget``. The
columns of an application are in ``pipelit_agents.database.application_columns``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Column, MetaData, Table

from pipelit_agents.database.encrypted_string import EncryptedString
from pipelit_agents.database.models import Base
from pipelit_agents.database.row_encryption import (
    AnyRow,
    Key,
    RowEncryptedString,
    RowRules,
    tag_kind_of,
)
from pipelit_agents.errors import UnsealError
from pipelit_agents.sealing.keyring import Keyring, Sealed

__all__ = ["SealedTable", "key_text", "sealed_tables", "tag_columns"]


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table with encrypted columns.

    Attributes:
        table: The table.
        columns: The type of each encrypted column, by the column's name.
        rules: How its rows are locked and forgotten.
    """

    table: Table
    columns: Mapping[str, EncryptedString]
    rules: RowRules

    @property
    def key(self) -> tuple[Column[object], ...]:
        """The columns of the primary key."""
        return tuple(self.table.primary_key.columns)

    @property
    def needed(self) -> tuple[Column[object], ...]:
        """The key, the ciphertexts, and the columns that purposes and locks are made of."""
        names = [column.name for column in self.key]
        for name, kind in self.columns.items():
            names.append(name)
            if isinstance(kind, RowEncryptedString):
                names += kind.columns
        names += self.rules.lock_columns
        return tuple(self.table.c[name] for name in dict.fromkeys(names))

    def tokens(self, row: AnyRow) -> Iterator[tuple[str, str]]:
        """Yield the name of each column that holds a ciphertext, and the ciphertext."""
        for name in self.columns:
            stored: Sealed | None = getattr(row, name)
            if stored is not None:
                yield name, stored.token

    def require_readable(self, keyring: Keyring, row: AnyRow, name: str, token: str) -> None:
        """Make sure that a column's value can be decrypted for the purpose of its row.

        A column that declares no purpose is only checked for its key.

        Raises:
            UnsealError: It can't.
        """
        with _unreadable_rows():
            kind = self.columns[name]
            if isinstance(kind, RowEncryptedString):
                keyring.unseal(token, kind.purpose_of(row))
            else:
                keyring.require_opening(token)

    def encrypt_again(self, keyring: Keyring, row: AnyRow, name: str, token: str) -> str:
        """Return a column's value under the newest key, for the same purpose.

        Raises:
            UnsealError: The value can't be decrypted.
        """
        with _unreadable_rows():
            kind = self.columns[name]
            if isinstance(kind, RowEncryptedString):
                return keyring.reseal(token, kind.purpose_of(row))
            return keyring.renew(token)

    def unreadable(self, keyring: Keyring, row: AnyRow) -> dict[str, str]:
        """Return the ciphertexts of a row that can't be decrypted, by their columns."""
        found = {}
        for name, token in self.tokens(row):
            try:
                self.require_readable(keyring, row, name, token)
            except UnsealError:
                found[name] = token
        return found

    def key_of(self, row: AnyRow) -> Key:
        """Return a row's primary key."""
        return tuple(getattr(row, column.name) for column in self.key)


@cache
def _sealed_table(table: Table) -> SealedTable:
    columns = {
        column.name: column.type
        for column in table.columns
        if isinstance(column.type, EncryptedString)
    }
    return SealedTable(table, columns, RowRules.of(table))


@contextmanager
def _unreadable_rows() -> Iterator[None]:
    # SQLite stores a value of any type in any column, and a purpose can't be made of each.
    try:
        yield
    except (TypeError, ValueError):
        raise UnsealError from None


def key_text(key: Sequence[object]) -> str:
    """Return a primary key as text; the values of its columns are separated by spaces."""
    return " ".join(map(str, key))


def sealed_tables(metadata: MetaData = Base.metadata) -> list[SealedTable]:
    """Return the tables with encrypted columns, in the order in which they are defined."""
    found = map(_sealed_table, metadata.tables.values())
    return [each for each in found if each.columns]


def tag_columns(metadata: MetaData = Base.metadata) -> list[tuple[Column[object], str | None]]:
    """Return the columns that hold a tag (MAC), and what the model declares them to be tags of.

    A column whose name says that it holds a tag, without a declaration, is returned with None.
    """
    found = []
    for table in metadata.sorted_tables:
        for column in table.columns:
            kind = tag_kind_of(column)
            if kind is not None or column.name == "mac" or column.name.endswith("_mac"):
                found.append((column, kind))
    return found
