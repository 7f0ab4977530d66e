"""Ask a database whether it accepts a connection string: connect, and ``SELECT 1``."""

from __future__ import annotations

import re
from math import ceil
from typing import Any, Final

from sqlalchemy import URL, create_engine, literal, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from pipelit_agents._discretion import discreet
from pipelit_agents.credentials.trial_words import Finding

__all__ = ["connect", "database_url"]

# How drivers call the time in which they have to connect, in whole seconds.
_TIMEOUTS: Final = {
    "mysqlconnector": "connection_timeout",
    "mysqldb": "connect_timeout",
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
}
# The options that a test tries. Drivers have others that name files of this machine, load them as
# code, or let the server read any file: who only stores a credential isn't to have that.
_OPTIONS: Final = frozenset(
    (
        *("application_name", "channel_binding", "charset", "client_encoding", "collation"),
        *("connect_timeout", "connection_timeout", "encrypt", "gssencmode", "host", "keepalives"),
        *("keepalives_count", "keepalives_idle", "keepalives_interval", "options", "port"),
        *("read_timeout", "ssl_ca", "ssl_mode", "sslmode", "sslrootcert", "target_session_attrs"),
        *("tcp_user_timeout", "trustservercertificate"),
    )
)
# Of an error's text, in any case. The text itself may repeat the password, and isn't shown.
_REFUSALS: Final = ("authentication failed", "access denied", "login failed", "invalid username")
_MISSING: Final = ("does not exist", "unknown database")


@discreet
def database_url(text: str) -> URL | Finding | None:
    """Return the connection string of a database with a server; None if a text is another one.

    Returns:
        A finding, if it isn't clear where the password ends: what follows would be taken for the
        server, asked for by name, and shown.
    """
    text = text.strip()
    try:
        url = make_url(text)
        if url.drivername == "postgres":
            # libpq and many hosts call it so.
            url = url.set(drivername="postgresql")
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        return None
    except ModuleNotFoundError:
        pass
    else:
        # A file has no key, and a connection would make one.
        if url.get_backend_name() == "sqlite":
            return None
    _, at, rest = text.rpartition("@")
    if at and not rest.removeprefix("[").startswith(url.host or ""):
        return Finding(
            "untested",
            "it isn't clear where its password ends: write %40 for each @ that isn't the one "
            "before the server",
        )
    return url


@discreet
def connect(url: URL, timeout: float) -> Finding:
    """Connect to a database as an application would, and return whether it accepts that.

    Args:
        url: The connection string.
        timeout: In seconds.
    """
    if not all(map(_is_tried, url.query.items())):
        # Its name isn't shown, as it may be a piece of a password.
        return Finding(
            "untested",
            "one of its options isn't tried, because such options can name files of this machine: "
            "test the credential where it is used",
        )
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    server = f"{url.get_backend_name()}://{host}{'' if url.port is None else f':{url.port}'}"
    try:
        dialect: Any = url.get_dialect()
        dialect.import_dbapi()
    except ImportError:
        return Finding(
            "untested",
            f"the driver of {url.drivername} isn't installed here: install it, or test the "
            "credential where it is used",
            server,
        )
    if dialect.is_async:
        return Finding(
            "untested",
            f"{url.drivername} is a driver for asyncio, which isn't used for tests",
            server,
        )
    name = _TIMEOUTS.get(dialect.driver)
    options = {} if name is None or name in url.query else {name: max(1, ceil(timeout))}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=options, hide_parameters=True)
        with engine.connect() as connection:
            connection.scalar(select(literal(1)))
    except Exception as error:
        return _refused(error)._replace(server=server)
    return Finding("good", "the database accepts it", server)


def _is_tried(option: tuple[str, object]) -> bool:
    name, value = option
    # The name of an ODBC driver; a path would be loaded.
    if name.lower() == "driver":
        return isinstance(value, str) and re.fullmatch(r"[\w .()-]+", value) is not None
    return name.lower() in _OPTIONS


def _refused(error: Exception) -> Finding:
    said = str(error).lower()
    if any(each in said for each in _REFUSALS):
        return Finding(
            "refused",
            "the database doesn't accept the user or the password: set another one there, and "
            "store it with credentials put",
        )
    if any(each in said for each in _MISSING):
        return Finding(
            "refused", "the database or the user doesn't exist: correct the connection string"
        )
    return Finding(
        "unanswered",
        "the database can't be reached, or refuses the connection: start it, or correct the "
        "connection string",
    )
