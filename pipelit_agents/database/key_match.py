"""Whether the encryption keys belong to a database: checked before anything is encrypted there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from pipelit_agents.database.row_encryption import AnyRow
from pipelit_agents.database.sealed_columns import SealedTable, sealed_tables
from pipelit_agents.errors import ConfigurationError, UnsealError
from pipelit_agents.sealing.keyring import Keyring

__all__ = ["StoredValue", "newest_value", "require_fitting"]

# Several rows of each table: one that was damaged must not make the others useless.
_SAMPLES: Final = 3


def require_fitting(connection: Connection, keyring: Keyring) -> None:
    """Make sure that these keys decrypt a value of a database, or that it holds none.

    The newest values of the tables that identify the key are tried, until one can be decrypted.
    Values of other tables count only where those hold none: otherwise a process with a replaced
    key could write a value there, which would then admit its key again.

    Raises:
        ConfigurationError: There are values, and none of them can be decrypted.
    """
    for tables in _by_rank():
        tokens = [
            token
            for table in tables
            for row in table.newest(connection, _SAMPLES)
            for _, token in table.tokens(row)
        ]
        if not tokens:
            continue
        if any(_decrypts(keyring, token) for token in tokens):
            return
        raise ConfigurationError(
            "refused to encrypt anything: the FIELD_ENCRYPTION_KEY that is set decrypts none of "
            "the newest values in this database, so it is another one's, or was replaced since "
            "this process started. Is one set in the environment, before the one in .env? See: "
            "pipelit-agents check. For a key that is lost: pipelit-agents keys forget"
        )


def _decrypts(keyring: Keyring, token: str) -> bool:
    try:
        # Whatever its purpose: a value that was moved says nothing about the key.
        keyring.require_opening(token)
    except UnsealError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class StoredValue:
    """One encrypted value of a database."""

    table: SealedTable
    row: AnyRow
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
    for table in (table for tables in _by_rank() for table in tables):
        for row in table.newest(connection, 1):
            for column, token in table.tokens(row):
                return StoredValue(table, row, column, token)
    return None


def _by_rank() -> tuple[list[SealedTable], list[SealedTable]]:
    """Return the tables that identify the key, and the others."""
    tables = list(sealed_tables())
    return (
        [table for table in tables if table.rules.identifies_key],
        [table for table in tables if not table.rules.identifies_key],
    )
