"""Read the version of a database's schema, and configure Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipelit_agents.database.server import READING, URL_SETTING
from pipelit_agents.errors import StorageError

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["alembic_config", "is_known_revision", "schema_revision"]

_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def schema_revision(connection: Connection) -> str | None:
    """Return the current migration of a database, or None without tables."""
    from alembic.runtime.migration import MigrationContext

    options = {"version_table": "pipelit_version"}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _revisions() -> set[str]:
    # Read from the file names, because importing Alembic takes a third of a second.
    files = (_MIGRATIONS / "versions").glob("[0-9]*_*.py")
    return {file.name.partition("_")[0] for file in files}


def is_known_revision(engine: Engine) -> bool:
    """Check that this package can use or migrate the tables.

    Returns:
        False if the check must be repeated, because there was no server, or there were no tables.

    Raises:
        StorageError: The tables are newer than this package, or from before its first release.
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
    known = _revisions()
    unknown = sorted(set(found) - known)
    if not unknown:
        return True
    tables = f"the tables at {engine.url.render_as_string()} are from"
    if unknown[-1] < min(known):
        raise StorageError(
            f"{tables} before the first release (migration {unknown[-1]!r:.40}), and this version "
            f"can't migrate them: migrate them to {min(known)} with a commit that still has both "
            f"migrations, or begin with an empty database (setting: {URL_SETTING})"
        )
    raise StorageError(
        f"{tables} a newer pipelit-agents (migration {unknown[-1]!r:.40}; this version knows "
        f"migrations up to {max(known)}): install that version or a newer one (pip install "
        "--upgrade pipelit-agents), or restore the copy from before the upgrade (setting: "
        f"{URL_SETTING})"
    )


def alembic_config() -> Config:
    """Return Alembic's configuration for this package's migrations."""
    from alembic.config import Config

    config = Config()
    # Escape percent signs, because configparser interpolates them.
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
