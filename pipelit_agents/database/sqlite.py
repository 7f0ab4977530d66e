"""Open the file of an SQLite database, privately and with transactions that don't fail halfway."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    NullPool,
    PoolProxiedConnection,
    create_engine,
    event,
)
from sqlalchemy.exc import OperationalError

from pipelit_agents.database.fast_path import named_by_driver
from pipelit_agents.database.machine import boot_id
from pipelit_agents.database.private_files import make_private
from pipelit_agents.database.server import READING, URL_SETTING
from pipelit_agents.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["BUSY_TIMEOUT", "FORKED", "MAX_SPARE", "begin_immediate", "sqlite_file", "synchronous"]

# Seconds.
BUSY_TIMEOUT: Final = 15.0
# Connections that are kept outside the pool.
MAX_SPARE: Final = 4
FORKED: Final = (
    "this process was forked in the middle of this transaction, which belongs to its parent: "
    "nothing was done here. In the child, don't continue the transaction, and end with os._exit"
)
# Options of Python's sqlite3 module and of SQLite URIs that transactions and locks depend on.
_SET_BY_US: Final = frozenset(
    {
        "autocommit", "cache", "check_same_thread", "detect_types", "factory", "immutable",
        "isolation_level", "nolock", "timeout",
    }
)  # fmt: skip


def sqlite_file(parsed: URL, *, pooled: bool, create: bool) -> Engine:
    """Create an engine.

    Args:
        parsed: The address.
        pooled: Whether connections are kept in a pool.
        create: Create the file if it is missing.

    Raises:
        ConfigurationError: The address can't be used, or the file can't be opened.
        StorageError: The file doesn't exist.
    """
    name = parsed.database or ":memory:"
    if parsed.host:
        raise ConfigurationError(
            f"{URL_SETTING}: write a file's path after three slashes, sqlite:///{parsed.host}, or "
            "four if the path is absolute"
        )
    if ":memory:" in name or parsed.query.get("mode") == "memory":
        raise ConfigurationError(
            f"{URL_SETTING} must name a file by its path: threads can't safely share an SQLite "
            "database in memory. In tests use a temporary directory, for example "
            "sqlite:////tmp/agents.db"
        )
    if name.startswith("file:") or {"mode", "uri"} & parsed.query.keys():
        raise ConfigurationError(
            f"{URL_SETTING} must name a file by its path, not by an SQLite URI (file:…): write "
            "sqlite:///agents.db, or four slashes if the path is absolute"
        )
    _require_sqlite_options(parsed)
    import sqlite3

    path = Path(name)
    make_private(path, create=create)
    pool: dict[str, Any] = {"pool_size": 16 + MAX_SPARE} if pooled else {"poolclass": NullPool}
    engine = create_engine(
        parsed, connect_args={"timeout": BUSY_TIMEOUT}, hide_parameters=True, **pool
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous()}")
        connection.execute("PRAGMA foreign_keys=ON")

    process = os.getpid()

    def require_ours(*_: object) -> None:
        if os.getpid() != process:
            raise StorageError(FORKED)

    for each in ("commit", "rollback", "before_cursor_execute"):
        event.listen(engine, each, require_ours)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails if another one wrote in between.
        # Taking the write lock at the beginning waits instead.
        reads = connection.get_execution_options().get(READING)
        driver = connection.connection.dbapi_connection
        try:
            driver.execute("BEGIN" if reads else "BEGIN IMMEDIATE")  # type: ignore[union-attr]
        except sqlite3.Error as error:
            raise OperationalError("BEGIN", None, error) from None

    return engine


def _require_sqlite_options(parsed: URL) -> None:
    """Refuse options of the address that would be ignored or cause an unclear error."""
    for name, value in parsed.query.items():
        if name in _SET_BY_US:
            why = "pipelit-agents sets it itself; leave it out"
        elif name != "cached_statements":
            why = "SQLite addresses have no such option here; leave it out"
        elif not isinstance(value, str) or not (value.isascii() and value.isdecimal()):
            why = "its value must be one whole number"
        else:
            continue
        raise ConfigurationError(f"{URL_SETTING} has the option {name!r:.60}: {why}")


def synchronous() -> str:
    """Return SQLite's setting for how commits are flushed to the disk."""
    # Without a boot id, lost commits can't be detected after a power failure, so don't lose any.
    return "NORMAL" if boot_id() else "FULL"


def begin_immediate(driver: PoolProxiedConnection, dialect: Dialect) -> None:
    """Begin a transaction that holds the write lock.

    Raises:
        DBAPIError: The lock is held by another process for too long.
    """
    cursor = driver.cursor()
    try:
        cursor.execute("BEGIN IMMEDIATE")
    except Exception as error:
        raise named_by_driver(dialect, error) from None
    finally:
        cursor.close()
