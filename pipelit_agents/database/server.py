"""Connect to a PostgreSQL server, directly or through a pooler such as PgBouncer.

A pooler in transaction mode gives each transaction any free session, and another application may
get the session next. So nothing is left behind in a session: limits are set for one transaction
(``SET LOCAL``), locks end with the transaction, and statements aren't prepared by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    NullPool,
    PoolProxiedConnection,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import ArgumentError, DisconnectionError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from pipelit_agents.database.fast_path import named_by_driver
from pipelit_agents.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from psycopg import Connection as Session

__all__ = ["READING", "URL_SETTING", "begin", "server", "without_limits"]

URL_SETTING: Final = "PIPELIT_DATABASE_URL (database_url=)"
# Our execution option for transactions that read one consistent state.
READING: Final = "pipelit_read"
_LOOSE: Final = "pipelit_loose"
_LOCK_TIMEOUT: Final = "15s"
# Limit the time of locks, statements and idle transactions, and make confirmed commits durable,
# whatever the server's default is. All of it is sent in one message with BEGIN.
_LOCAL: Final = (
    f"; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'; SET LOCAL statement_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL synchronous_commit = 'on'"
)
# Deciding statements must see what was committed while they waited for a lock.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED" + _LOCAL
_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY" + _LOCAL

# Detect servers that don't answer (s) and dead TCP connections (ms). Don't connect to standbys,
# because after a failover the old primary may be one at the same address.
_DEFAULTS: Final = {
    "connect_timeout": ("5", "PGCONNECT_TIMEOUT"),
    "tcp_user_timeout": ("30000", None),
    "target_session_attrs": ("read-write", "PGTARGETSESSIONATTRS"),
}
_NUMBERS: Final = frozenset(
    {
        "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle",
        "keepalives_interval", "port", "tcp_user_timeout",
    }
)  # fmt: skip
_MANY: Final = frozenset({"host", "port"})
_UTF_8: Final = frozenset({"utf8", "unicode"})
# Options of psycopg that take Python objects, or that this package sets.
_OURS: Final = frozenset({"autocommit", "context", "cursor_factory", "row_factory"})
_PREPARED: Final = "prepare_threshold"
_SECRET: Final = frozenset(
    {"oauth_client_secret", "password", "scram_client_key", "scram_server_key", "sslpassword"}
)


def server(parsed: URL, pool_size: int, *, wait: float, options: str = "") -> Engine:
    """Create an engine.

    Args:
        parsed: The address.
        pool_size: The maximum number of connections; 0 for no pool.
        wait: How long a thread waits for a connection of the pool, in seconds.
        options: Command-line options for the server process, in addition to the address's.

    Raises:
        ArgumentError: The driver isn't psycopg.
        ConfigurationError: The address has an option that can't be used.
    """
    dialect = parsed.get_dialect()
    if dialect.driver != "psycopg":
        raise ArgumentError(f"the driver must be psycopg, not {dialect.driver}")
    arguments = _arguments(parsed, dialect.import_dbapi())
    if options:
        arguments["options"] = f"{arguments.get('options', '')} {options}".strip()
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size:
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": wait}
    engine = create_engine(
        # The engine's address is shown in messages.
        parsed.difference_update_query(_SECRET),
        pool_pre_ping=True,
        connect_args=arguments,
        hide_parameters=True,
        **pool,
    )
    _prepare_connections(engine)
    return engine


def _prepare_connections(engine: Engine) -> None:
    # Connections of an older generation are replaced when they are next taken from the pool.
    generation = [0]

    def replace() -> None:
        generation[0] += 1

    alive: WeakSet[Session] = WeakSet()

    def disconnect() -> None:
        # In a forked child: redirect everything that it would send, even at its exit.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for each in list(alive):
            with suppress(Exception):
                os.dup2(nowhere, each.fileno())
        os.close(nowhere)

    engine.update_execution_options(pipelit_replace=replace, pipelit_disconnect=disconnect)

    @event.listens_for(engine, "connect")
    def _connected(connection: Session, record: ConnectionPoolEntry) -> None:
        # We begin the transactions ourselves, with the limits in the same message.
        connection.autocommit = True
        alive.add(connection)
        record.info["generation"] = generation[0]

    @event.listens_for(engine, "checkout")
    def _checked_out(_connection: Session, record: ConnectionPoolEntry, _proxy: object) -> None:
        if record.info["generation"] != generation[0]:
            raise DisconnectionError

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(_LOOSE):
            sql = _BEGIN_READING if options.get(READING) else _BEGIN
            begin(connection.connection, connection.dialect, sql)


def begin(driver: PoolProxiedConnection, dialect: Dialect, sql: str = _BEGIN) -> None:
    """Begin a transaction.

    Raises:
        DBAPIError: The server refused, or the connection is lost.
    """
    cursor: Any = driver.cursor()
    try:
        # Several statements can't be prepared, even if the address requests it.
        cursor.execute(sql, prepare=False)
    except Exception as error:
        raise named_by_driver(dialect, error) from None
    finally:
        cursor.close()


def _arguments(parsed: URL, driver: Any) -> dict[str, Any]:
    """Check the options of the address, and return what the driver is called with.

    Raises:
        ConfigurationError: An option is unknown, repeated, or has an invalid value.
    """
    known = {option.keyword.decode() for option in driver.pq.Conninfo.get_defaults()}
    arguments: dict[str, Any] = {
        name: value
        for name, (value, variable) in _DEFAULTS.items()
        if not (variable and os.environ.get(variable))
    }
    # Send text as UTF-8, whatever the encoding of the database is.
    arguments |= {"client_encoding": "utf8", _PREPARED: None}
    for name, value in parsed.query.items():
        if name == _PREPARED:
            arguments[name] = _threshold(value)
            continue
        why = _why_unusable(name, value, known)
        if why:
            raise ConfigurationError(f"{URL_SETTING} has the option {name!r:.60}: {why}")
        if name not in _MANY:
            arguments[name] = value
    return arguments


def _why_unusable(name: str, value: str | tuple[str, ...], known: set[str]) -> str:
    if name in _OURS:
        return "pipelit-agents sets it itself; leave it out"
    if name not in known:
        near = get_close_matches(name.lower(), {*known, _PREPARED}, 1)
        meant = f"write {near[0]}" if near else "leave it out"
        return f"neither PostgreSQL's libpq nor psycopg has this option; {meant}"
    if name in _MANY:
        return ""
    if not isinstance(value, str):
        return "it is set more than once; keep one"
    if name in _NUMBERS and not value.strip().lstrip("-").isdecimal():
        return "its value must be a whole number"
    if name == "client_encoding" and _plain(value) not in _UTF_8:
        return "names and purposes can contain any character, so it must be utf8; leave it out"
    return ""


def _plain(encoding: str) -> str:
    return encoding.lower().replace("-", "").replace("_", "")


def _threshold(value: str | tuple[str, ...]) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value)
    if isinstance(value, str) and value.lower() in ("", "none"):
        return None
    raise ConfigurationError(
        f"{URL_SETTING} has the option {_PREPARED!r}, which must be the number of executions after "
        "which a statement is prepared, such as 5, or None for never (the default)"
    )


@contextmanager
def without_limits(engine: Engine, parsed: URL) -> Iterator[Callable[[str], None]]:
    """Run statements outside of a transaction, with no limit but the one for locks.

    The limits are options of a separate connection, so they end with it.

    Raises:
        OperationalError: The server can't be reached.
        StorageError: A pooler doesn't pass the options on.
    """
    wanted: Mapping[str, str] = {"lock_timeout": _LOCK_TIMEOUT, "statement_timeout": "0"}
    options = " ".join(f"-c {name}={value}" for name, value in wanted.items())
    refused = StorageError(
        f"the tables at {engine.url.render_as_string()} can't be rewritten through a pooler, "
        f"because it doesn't pass limits on: use the server's own address in {URL_SETTING}"
    )
    own = server(parsed, 0, wait=0, options=options)
    try:
        connection = own.connect()
    except OperationalError as error:
        if "startup parameter" in str(error.orig):
            raise refused from None
        raise
    with connection:
        connection.execution_options(**{_LOOSE: True})
        if any(connection.scalar(text(f"SHOW {name}")) != value for name, value in wanted.items()):
            raise refused

        def run(sql: str) -> None:
            connection.execute(text(sql))

        yield run
