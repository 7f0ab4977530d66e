"""Work on a whole database: create or migrate its tables, rewrite them, and copy the file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sqlalchemy import insert, make_url, text
from sqlalchemy.exc import OperationalError

from pipelit_agents.database.causes import NamedErrors
from pipelit_agents.database.engine import Database
from pipelit_agents.database.process import PROCESS_LOCKS
from pipelit_agents.database.schema import alembic_config, schema_revision
from pipelit_agents.database.server import URL_SETTING, without_limits
from pipelit_agents.errors import ConfigurationError, StorageError

__all__ = ["backup", "create_schema", "has_tables", "pending_migrations", "purge"]


def create_schema(database: Database) -> None:
    """Create the database file if it is missing, and migrate the tables to the newest version.

    No other method creates a file, so a mistyped address is an error and not a new empty
    database.

    Raises:
        StorageError: The database can't be reached, or refused a statement.
    """
    from alembic import command
    from alembic.util import CommandError

    from pipelit_agents.database.models import EpochRow

    database.open(create=True)
    # Alembic keeps the current migration in a global variable.
    with PROCESS_LOCKS.migrating, database.writing() as connection:
        if connection.dialect.name != "sqlite":
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        database.lock(connection, "schema")
        config = alembic_config()
        config.attributes["connection"] = connection
        fresh = schema_revision(connection) is None
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(
                f"the tables can't be migrated to this package's version ({error}) "
                f"(setting: {URL_SETTING})"
            ) from None
        if fresh:
            epoch = {
                "id": 1,
                "boot_id": database.epoch(),
                "changed_at": 0.0,
                "database_id": secrets.token_hex(16),
            }
            connection.execute(insert(EpochRow).values(epoch))


def has_tables(database: Database) -> bool:
    """Return whether the tables of pipelit-agents exist, in any version."""
    with database.reading() as connection:
        return schema_revision(connection) is not None


def pending_migrations(database: Database) -> bool:
    """Return whether the tables are older than this package."""
    from alembic.script import ScriptDirectory

    with database.reading() as connection:
        newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
        return schema_revision(connection) != newest


def purge(database: Database) -> None:
    """Rewrite the tables, to remove replaced and deleted data from the files.

    Raises:
        StorageError: The database is in use for longer than the timeout.
    """
    import sqlite3

    # VACUUM can't run in a transaction, and our connections always begin one.
    opened = database.open()
    with opened.in_use(), NamedErrors(opened.engine):
        if opened.engine.dialect.name != "sqlite":
            from pipelit_agents.database.models import Base

            with without_limits(opened.engine, make_url(opened.source)) as run:
                for table in Base.metadata.sorted_tables:
                    run(f"VACUUM FULL {table.name}")
            return
        raw = opened.engine.raw_connection()
        try:
            cursor = raw.cursor()
            cursor.execute("PRAGMA secure_delete=ON")
            try:
                cursor.execute("VACUUM")
                busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                raise OperationalError("VACUUM", None, error) from None
        finally:
            raw.close()
    if busy:
        raise StorageError(
            "the tables were rewritten, but a reader keeps the old pages in the write-ahead "
            f"log: stop the other processes and try again (setting: {URL_SETTING})"
        )


def backup(database: Database, path: Path) -> None:
    """Make a complete and consistent copy of an SQLite database while it is in use.

    Raises:
        ConfigurationError: The database isn't SQLite, or the file exists or can't be created.
        StorageError: The copy failed.
    """
    import sqlite3

    if database.engine.dialect.name != "sqlite":
        raise ConfigurationError(
            "use pg_dump to copy a PostgreSQL database: see docs/operations.md"
        )
    try:
        # Create the file before SQLite does, so that other accounts can never read it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise ConfigurationError(
            f"the copy {path} can't be created ({error.strerror}): name a file that doesn't "
            "exist yet, in a folder that exists"
        ) from None
    opened = database.open()
    with opened.in_use(), NamedErrors(opened.engine):
        raw = opened.engine.raw_connection()
        try:
            raw.cursor().execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            path.unlink(missing_ok=True)
            raise OperationalError("VACUUM INTO", None, error) from None
        finally:
            raw.close()
