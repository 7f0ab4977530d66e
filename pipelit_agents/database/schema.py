"""Read the version of a database's schema, and configure Alembic."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Connection,
    Engine,
    text,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipelit_agents.database.server import READING, URL_SETTING
from pipelit_agents.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["alembic_config", "is_known_revision", "schema_revision"]


def schema_revision(connection: Connection) -> str | None:
    """Return the current migration of a database, or None without tables."""
    from alembic.runtime.migration import MigrationContext

    options = {"version_table": "pipelit_version"}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


@cache
def _revisions() -> frozenset[str]:
    # Read from the file names, because importing Alembic takes a third of a second.
    folder = Path(__file__).parent / "migrations" / "versions"
    return frozenset(file.name.partition("_")[0] for file in folder.glob("[0-9]*_*.py"))


def is_known_revision(engine: Engine) -> bool:
    """Check that the tables aren't newer than this package.

    Returns:
        False if the check must be repeated, because there was no server, or there were no tables.

    Raises:
        StorageError: The tables are newer than this package.
    """
    try:
        with engine.connect().execution_options(**{READING: True}) as connection:
            found = connection.scalars(text("SELECT version_num FROM pipelit_version")).all()
    except OperationalError:
        # No server, or no tables yet: the next statement reports it.
        return False
    except SQLAlchemyError:
        # PostgreSQL has no such table, or denies access to it: the next statement reports it.
        return True
    newer = sorted(set(found) - _revisions())
    if newer:
        raise StorageError(
            f"the tables at {engine.url.render_as_string()} are from a newer pipelit-agents "
            f"(migration {newer[-1]!r:.40}; this version knows migrations up to "
            f"{max(_revisions())}): install that version or a newer one (pip install --upgrade "
            "pipelit-agents), or restore the copy from before the upgrade (setting: "
            f"{URL_SETTING})"
        )
    return True


def alembic_config() -> Config:
    """Return Alembic's configuration for this package's migrations."""
    from alembic.config import Config

    config = Config()
    # Escape percent signs, because configparser interpolates them.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config
