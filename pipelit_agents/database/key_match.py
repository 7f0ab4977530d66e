"""Whether the encryption keys belong to a database: checked before anything is encrypted there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row

from pipelit_agents.database.sealed_columns import SealedTable, sealed_tables
from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["StoredValue", "newest_value", "require_fitting"]

# Several rows of each table: one that was damaged must not make the others useless.
_SAMPLES: Final = 3


def require_fitting(connection: Connection, keyring: Keyring) -> None:
    """Make sure that these keys decrypt a value of a database, or that it holds none.

    The newest values of each table with encrypted columns are tried, until one can be decrypted.

    Raises:
        ConfigurationError: There are values, and none of them can be decrypted.
    """
    empty = True
    for table, row in _newest(connection, _SAMPLES):
        for _, token in table.tokens(row):
            empty = False
            try:
                # Whatever its purpose: a value that was moved says nothing about the key.
                keyring.require_opening(token)
            except UnsealError:
                continue
            return
    if not empty:
        raise ConfigurationError(
            "refused to encrypt anything: the FIELD_ENCRYPTION_KEY that is set decrypts none of "
            "the newest values in this database, so it is another one's, or was replaced since "
            "this process started. Is one set in the environment, before the one in .env? See: "
            "pipelit-agents check. For a key that is lost: pipelit-agents keys forget"
        )


@dataclass(frozen=True, slots=True)
class StoredValue:
    """One encrypted value of a database."""

    table: SealedTable
    row: Row[Any]
    column: str
    token: str

    def require_readable(self, keyring: Keyring) -> None:
        """Make sure that the keys decrypt the value for its purpose.

        Raises:
            UnsealError: They don't.
        """
        self.table.require_readable(keyring, self.row, self.column, self.token)


def newest_value(connection: Connection) -> StoredValue | None:
    """Return the newest value of the first table that holds one; None where no table does."""
    for table, row in _newest(connection, 1):
        for column, token in table.tokens(row):
            return StoredValue(table, row, column, token)
    return None


def _newest(connection: Connection, limit: int) -> Iterator[tuple[SealedTable, Row[Any]]]:
    for table in sealed_tables():
        for row in table.newest(connection, limit):
            yield table, row
