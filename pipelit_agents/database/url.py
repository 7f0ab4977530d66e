"""Choose the engine for a database URL, and refuse URLs that can't be used."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from pipelit_agents.database.server import URL_SETTING, server
from pipelit_agents.database.sqlite import BUSY_TIMEOUT, sqlite_file
from pipelit_agents.errors import ConfigurationError

__all__ = ["engine_of"]

_OTHER: Final = "it must be sqlite:///… or postgresql+psycopg://…"


def engine_of(url: str, pool_size: int, *, create: bool) -> Engine:
    """Create an engine.

    Args:
        url: The URL.
        pool_size: The maximum number of connections to a server; 0 for no pool.
        create: Create the file of an SQLite database if it is missing.

    Raises:
        ConfigurationError: The URL can't be used, or the file can't be opened.
        StorageError: The file doesn't exist.
    """
    _require_readable(url)
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
        if dialect.is_async:
            raise ArgumentError(f"{dialect.name}+{dialect.driver} is an asyncio driver")  # noqa: TRY301 - said below
        if parsed.get_backend_name() == "postgresql":
            return server(parsed, pool_size, wait=BUSY_TIMEOUT)
        if parsed.get_backend_name() != "sqlite":
            raise ArgumentError(_OTHER)  # noqa: TRY301 - said below
        if dialect.driver != "pysqlite":
            raise ArgumentError(f"the driver must be pysqlite, not {dialect.driver}")  # noqa: TRY301 - said below
    except ValueError:
        # The error's message repeats a part of the address, which may be the password.
        raise ConfigurationError(
            f"{URL_SETTING} is not a database URL: the port after the host isn't a number; for "
            "example postgresql+psycopg://user@host:5432/database"
        ) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{URL_SETTING} names a database whose driver is not installed ({error}); for "
            "postgresql+psycopg://…: pip install 'pipelit-agents[postgres]'"
        ) from None
    except (ArgumentError, NoSuchModuleError) as error:
        # Hosting services give this form, which SQLAlchemy doesn't know.
        old = url.startswith("postgres://")
        why = "write postgresql+psycopg:// in place of postgres://" if old else error
        if not old and (isinstance(error, NoSuchModuleError) or "://" not in url):
            why = _OTHER
        raise ConfigurationError(
            f"{URL_SETTING} is not a database URL that can be used here ({why}); for example: "
            "sqlite:///.pipelit/agents.db, or postgresql+psycopg://user@host/database with "
            "pip install 'pipelit-agents[postgres]'"
        ) from None
    return sqlite_file(parsed, pooled=pool_size > 0, create=create)


def _require_readable(url: str) -> None:
    """Refuse a URL that SQLAlchemy would misread. The message repeats no part of it."""
    why = ""
    if not url.strip():
        why = "it is empty: unset it for the default, sqlite:///.pipelit/agents.db, or fill it in"
    elif url[0] in "'\"":
        why = "it has quotes around it, which belong to the shell or to .env: remove them"
    elif url != url.strip() or any(ord(each) < 0x20 for each in url):
        why = "it has a line break or white space in it: remove that"
    elif url.partition("://")[2].partition("?")[0].count("@") > 1:
        why = "in a user name or password write @ as %40, : as %3A, / as %2F and % as %25"
    if why:
        raise ConfigurationError(f"{URL_SETTING} is not a database URL that can be used: {why}")
