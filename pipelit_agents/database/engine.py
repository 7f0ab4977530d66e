"""Open the database, with private files, safe transactions, and errors that name the setting."""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeVar
from zlib import crc32

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    PoolProxiedConnection,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from pipelit_agents._forks import Unforked, reset_in_forked_children, was_in_use
from pipelit_agents.database.causes import LOST_PRIMARY, hint
from pipelit_agents.database.fast_path import (
    Open,
    Query,
    Row,
    Statement,
    Transaction,
    named_by_driver,
)
from pipelit_agents.database.machine import boot_id, machine_uptime
from pipelit_agents.database.private_files import make_private
from pipelit_agents.database.process import INTERRUPTED, PROCESS_LOCKS, THIS_THREAD
from pipelit_agents.database.schema import alembic_config, is_known_revision, schema_revision
from pipelit_agents.database.server import READING, URL_SETTING, begin, server, without_limits
from pipelit_agents.errors import ConfigurationError, StorageError

__all__ = ["Database"]

C = TypeVar("C")

# Seconds.
BUSY_TIMEOUT: Final = 15.0
POOL_SIZE: Final = 8
# SQLite connections that are kept outside the pool.
_MAX_SPARE: Final = 4
reset_in_forked_children(THIS_THREAD)


class Database:
    """A database, which is opened at first use, so that a module can create it at import.

    Args:
        url: Returns an SQLAlchemy URL; called at first use.
        pool_size: The maximum number of connections that one process opens to a server.

    Raises:
        ConfigurationError: At first use, if the URL can't be used.
    """

    def __init__(self, url: Callable[[], str], *, pool_size: int = POOL_SIZE) -> None:
        self._url = url
        self._pool_size = pool_size
        self._opened: _Opened | None = None
        self._inherited: tuple[Any, ...] = ()
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forget all connections in a forked child, without closing them.

        The parent still uses them.
        """
        if self._opened is not None:
            self._opened.disconnect()
        self._inherited = self._opened, self._inherited
        self._opened = None
        self._known: _Opened | None = None
        # A thread that is interrupted while it opens the database can open it again.
        self._opening = threading.RLock()
        # SQLite allows one writer at a time; others sleep and retry. Threads of one process wait
        # for this lock instead, and continue immediately.
        self._writer = threading.RLock()

    def before_fork(self) -> object:
        """Close SQLite's connections before a fork; return the database's name if one is left.

        In the child, SQLite would assume that it holds the parent's locks on the file. Closing the
        last connection with a lock deletes the log, including what the child has written.
        """
        opened = self._opened
        if opened is None or opened.engine.dialect.name != "sqlite":
            return None
        if THIS_THREAD.connects:
            # This thread was interrupted while it holds the locks of the pool.
            return opened.name
        opened.drain()
        return None

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, also as a part of another object.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "pipelit's services hold the keys and connections of their process, so they can't be "
            "pickled or copied: create a Pipelit in the other process (Pipelit.from_env()), and "
            "pass only names and values"
        )

    @property
    def engine(self) -> Engine:
        """The engine. It is created at first use, and again in a forked child."""
        return self._open().engine

    @staticmethod
    def _unforked(opened: _Opened) -> AbstractContextManager[None]:
        sqlite = opened.engine.dialect.name == "sqlite"
        return Unforked(opened.name) if sqlite else nullcontext()

    @contextmanager
    def _used(self, opened: _Opened) -> Iterator[None]:
        """Use an opened database without forks, and close its connections if it was closed."""
        with self._unforked(opened):
            try:
                yield
            finally:
                opened.settle()

    def _open(self, *, create: bool = False) -> _Opened:
        opened = self._opened
        if opened is None:
            with self._opening:
                opened = self._opened
                if opened is None:
                    url = self._url()
                    made = _Opened.by(_engine(url, self._pool_size, create=create), url)
                    # A handler that interrupted this thread may have opened the database already.
                    opened = self._opened = self._opened or made
        return opened

    def _ready(self) -> _Opened:
        """Open the database, and check that its tables aren't of a newer version.

        Raises:
            StorageError: A newer pipelit-agents has migrated the tables.
        """
        opened = self._open()
        if opened is not self._known:
            with self._used(opened):
                if self._from_pool(opened, is_known_revision):
                    self._known = opened
        return opened

    @property
    def url(self) -> URL | None:
        """The database's URL, without opening it; None if it isn't a valid URL."""
        try:
            return make_url(self._url())
        except (ArgumentError, ValueError):
            return None

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[Connection]:
        """Begin a transaction that holds the write lock from its first statement on.

        Args:
            durable: Whether the commit must survive a power failure. A used code needn't, because
                the epoch detects the failure.

        Raises:
            StorageError: The database can't be reached, or refused a statement.
        """
        opened = self._ready()
        engine = opened.engine
        with self._turn(opened), _NamedErrors(engine), self._connected(opened) as connection:
            driver = connection.connection.dbapi_connection
            flushes = durable and engine.dialect.name == "sqlite" and driver is not None
            if flushes:
                driver.execute("PRAGMA synchronous=FULL")  # type: ignore[union-attr]
            try:
                with connection.begin():
                    yield connection
            finally:
                if flushes and opened.is_ours:
                    driver.execute(f"PRAGMA synchronous={_synchronous()}")  # type: ignore[union-attr]

    @contextmanager
    def deciding(self) -> Iterator[Transaction]:
        """Begin a transaction like :meth:`writing`, but faster and only for :class:`Statement`.

        Every verification uses it.

        Raises:
            StorageError: The database can't be reached, or refused a statement.
        """
        opened = self._ready()
        engine = opened.engine
        sqlite = engine.dialect.name == "sqlite"
        with self._turn(opened), _NamedErrors(engine):
            driver = self._checked_out(opened)
            try:
                if sqlite:
                    self._driven(engine, driver, "BEGIN IMMEDIATE")
                else:
                    begin(driver, engine.dialect)
                yield Transaction(driver, engine.dialect)
                opened.require_ours()
                self._commit(engine, driver)
            except BaseException:
                try:
                    if opened.is_ours:
                        driver.rollback()
                except BaseException as error:
                    # If the connection is lost, the server rolls back by itself. If the rollback
                    # was interrupted, the connection must not be used again.
                    driver.invalidate()
                    if not isinstance(error, Exception):
                        raise
                finally:
                    _closed(driver, opened)
                raise
            self._give_back(driver, opened)

    @contextmanager
    def _turn(self, opened: _Opened) -> Iterator[None]:
        """Allow one writing transaction at a time per thread, and on SQLite per process.

        Raises:
            StorageError: This thread is already in one, or another thread holds it for too long.
        """
        writes, holds, writer = THIS_THREAD.writes, THIS_THREAD.holds, self._writer
        sqlite = opened.engine.dialect.name == "sqlite"
        if opened.name in writes:
            raise StorageError(INTERRUPTED.format(what="a transaction that writes"))
        if was_in_use(opened.name):
            raise StorageError(
                "this process was forked in the middle of a transaction of the database at "
                f"{opened.engine.url.render_as_string()}, so it can't write to it: don't fork "
                "during a transaction (such as in a signal handler or a finalizer), or use the "
                "start method spawn or forkserver of multiprocessing"
            )
        try:
            THIS_THREAD.writes, THIS_THREAD.holds = (*writes, opened.name), holds + 1
            if sqlite and not writer.acquire(timeout=BUSY_TIMEOUT):
                raise StorageError(
                    f"the database at {opened.engine.url.render_as_string()} is locked: another "
                    f"thread of this process has written to it for {BUSY_TIMEOUT:.0f} seconds "
                    f"(setting: {URL_SETTING})"
                )
            with self._unforked(opened):
                yield
        finally:
            if sqlite:
                # This thread may not hold the lock if it was interrupted; see Batching.ask.
                try:  # noqa: SIM105 - suppress is Python code, so a signal can interrupt it too
                    writer.release()
                except RuntimeError:
                    pass
            THIS_THREAD.writes, THIS_THREAD.holds = writes, holds

    @contextmanager
    def _connected(self, opened: _Opened) -> Iterator[Connection]:
        connection = self._from_pool(opened, lambda engine: engine.connect())
        try:
            yield connection
        finally:
            _closed(connection, opened)

    def _checked_out(self, opened: _Opened) -> PoolProxiedConnection:
        try:
            return opened.spare.pop()
        except IndexError:
            pass
        try:
            return self._from_pool(opened, lambda engine: engine.pool.connect())
        except Exception as error:
            raise named_by_driver(opened.engine.dialect, error) from None

    def _from_pool(self, opened: _Opened, connect: Callable[[Engine], C]) -> C:
        depth = THIS_THREAD.connects
        if depth > 1:
            raise StorageError(INTERRUPTED.format(what="opening a connection"))
        # This thread may hold the pool's locks, or the pool's last connection, and would wait for
        # itself.
        server = opened.engine.dialect.name != "sqlite"
        apart = depth > 0 or (server and THIS_THREAD.holds > 1)
        engine = _engine(opened.source, 0, create=False) if apart else opened.engine
        try:
            THIS_THREAD.connects = depth + 1
            return connect(engine)
        finally:
            THIS_THREAD.connects = depth

    @staticmethod
    def _driven(engine: Engine, driver: PoolProxiedConnection, sql: str) -> None:
        cursor = driver.cursor()
        try:
            cursor.execute(sql)
        except Exception as error:
            raise named_by_driver(engine.dialect, error) from None
        finally:
            cursor.close()

    @staticmethod
    def _commit(engine: Engine, driver: PoolProxiedConnection) -> None:
        try:
            driver.commit()
        except Exception as error:
            raise named_by_driver(engine.dialect, error) from None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Begin a transaction that reads one consistent state.

        Raises:
            StorageError: The database can't be reached, or refused a statement.
        """
        opened, holds = self._ready(), THIS_THREAD.holds
        engine = opened.engine
        try:
            THIS_THREAD.holds = holds + 1
            with (
                self._unforked(opened),
                _NamedErrors(engine),
                self._connected(opened) as connection,
            ):
                connection.execution_options(**{READING: True})
                # Begin explicitly, because the driver's own statements wouldn't.
                with connection.begin():
                    yield connection
        finally:
            THIS_THREAD.holds = holds

    def fetch(self, query: Query[Row], values: Mapping[str, object]) -> list[Row]:
        """Return the rows of one query, which reads one consistent state by itself.

        Raises:
            StorageError: The database can't be reached, or refused the query.
        """
        opened, holds = self._ready(), THIS_THREAD.holds
        engine = opened.engine
        try:
            THIS_THREAD.holds = holds + 1
            with self._unforked(opened):
                driver = self._checked_out(opened)
                try:
                    if engine.dialect.name != "sqlite":
                        begin(driver, engine.dialect)
                    rows = query.fetch_by(driver, engine.dialect, values)
                except BaseException:
                    _closed(driver, opened)
                    raise
                self._give_back(driver, opened)
        except _REFUSED as error:
            raise _storage_error(engine, error) from None
        finally:
            THIS_THREAD.holds = holds
        return rows

    def _give_back(self, driver: PoolProxiedConnection, opened: _Opened) -> None:
        """Keep a connection that is in no transaction, or return it to the pool."""
        sqlite = opened.engine.dialect.name == "sqlite"
        if sqlite and len(opened.spare) < _MAX_SPARE:
            opened.spare.append(driver)
            opened.settle()
        else:
            _closed(driver, opened)

    def lock(self, connection: Open, *names: str, shared: bool = False) -> None:
        """Serialize transactions that lock the same name, until they end.

        SQLite already serializes writing transactions, so nothing is locked there.

        Args:
            connection: A connection in a transaction that hasn't yet read the data to protect.
            names: The names to lock, by kind and name: ``account:alice``. Lock kinds in the order
                family, account, ledger, credential.
            shared: Take a shared lock, which conflicts only with exclusive ones.
        """
        if connection.dialect.name == "sqlite":
            return
        take = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
        keys = sorted({_lock_key(name) for name in names})
        if keys:
            # In one order, so that two transactions can't wait for each other. Equal keys are taken
            # once.
            values: dict[str, object] = {f"kind{n}": kind for n, (kind, _) in enumerate(keys)}
            values |= {f"name{n}": name for n, (_, name) in enumerate(keys)}
            _locking(take, len(keys)).write(connection, values)

    @property
    def server_clock(self) -> str:
        """SQL for the time of the server's clock, in Unix seconds; NULL on SQLite."""
        if self.engine.dialect.name == "sqlite":
            return "NULL"
        return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"

    def epoch(self) -> str:
        """Return an id that changes when commits may have been lost; empty for a server.

        A server loses no commit that it confirmed.
        """
        return boot_id() if self.engine.dialect.name == "sqlite" else ""

    @property
    def uptime(self) -> Callable[[], float] | None:
        """The function for the seconds since the machine's start, or None without an epoch."""
        return machine_uptime if self.epoch() else None

    def create_schema(self) -> None:
        """Create the database file if it is missing, and migrate the tables to the newest version.

        No other method creates a file, so a mistyped address is an error and not a new empty
        database.

        Raises:
            StorageError: The database can't be reached, or refused a statement.
        """
        from alembic import command
        from alembic.util import CommandError

        from pipelit_agents.database.models import EpochRow

        self._open(create=True)
        # Alembic keeps the current migration in a global variable.
        with PROCESS_LOCKS.migrating, self.writing() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(text("SET LOCAL statement_timeout = 0"))
            self.lock(connection, "schema")
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
                    "boot_id": self.epoch(),
                    "changed_at": 0.0,
                    "database_id": secrets.token_hex(16),
                }
                connection.execute(insert(EpochRow).values(epoch))

    def has_tables(self) -> bool:
        """Whether the tables of pipelit-agents exist, in any version."""
        with self.reading() as connection:
            return schema_revision(connection) is not None

    def pending_migrations(self) -> bool:
        """Whether the tables are older than this package."""
        from alembic.script import ScriptDirectory

        with self.reading() as connection:
            newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
            return schema_revision(connection) != newest

    def purge(self) -> None:
        """Rewrite the tables, to remove replaced and deleted data from the files.

        Raises:
            StorageError: The database is in use for longer than the timeout.
        """
        import sqlite3

        # VACUUM can't run in a transaction, and our connections always begin one.
        opened = self._open()
        with self._used(opened), _NamedErrors(opened.engine):
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

    def backup(self, path: Path) -> None:
        """Make a complete and consistent copy of an SQLite database while it is in use.

        Raises:
            ConfigurationError: The database isn't SQLite, or the file exists or can't be created.
            StorageError: The copy failed.
        """
        import sqlite3

        if self.engine.dialect.name != "sqlite":
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
        opened = self._open()
        with self._used(opened), _NamedErrors(opened.engine):
            raw = opened.engine.raw_connection()
            try:
                raw.cursor().execute("VACUUM INTO ?", (str(path),))
            except sqlite3.Error as error:
                path.unlink(missing_ok=True)
                raise OperationalError("VACUUM INTO", None, error) from None
            finally:
                raw.close()

    def close(self) -> None:
        """Close all connections. The next use opens new ones."""
        opened = self._opened
        if opened is None:
            return
        # A fork closes the connections of what is open here, so it must see this before or after.
        with self._unforked(opened):
            with self._opening:
                if self._opened is opened:
                    self._opened = None
            opened.shut.append(True)
            opened.settle()


class _Opened(NamedTuple):
    """An engine with spare connections.

    Only SQLite has spare connections, and they are in no transaction. SQLAlchemy's pool takes as
    long to check a connection out and in as SQLite takes for a query. Engine and connections are
    one object, so that a connection can't be returned to another engine. Popping a spare connection
    gives its caller exclusive use.
    """

    engine: Engine
    spare: deque[PoolProxiedConnection]
    # The file, or the engine. Two Database objects of one file would wait for each other.
    name: object
    # Contains True after close(). A list, because the tuple is immutable.
    shut: list[bool]
    # The complete address, with the password.
    source: str
    # The id of the process that opened it.
    process: int

    @classmethod
    def by(cls, engine: Engine, source: str) -> _Opened:
        sqlite = engine.dialect.name == "sqlite"
        name = Path(engine.url.database or "").resolve() if sqlite else engine
        return cls(engine, deque(), name, [], source, os.getpid())

    def settle(self) -> None:
        """Close connections that were returned after :meth:`Database.close`.

        A returning caller calls this after it returned the connection, and close() sets ``shut``
        before it calls this, so one of the two closes the connection.
        """
        if self.shut and self.is_ours:
            self.drain()

    def drain(self) -> None:
        """Close all idle connections."""
        depth = THIS_THREAD.connects
        try:
            THIS_THREAD.connects = depth + 1
            with suppress(IndexError):
                while True:
                    self.spare.pop().close()
            # Not the engine's dispose(), which replaces the pool: a connection in use would be
            # returned to the old pool, and stay open until it is garbage-collected.
            self.engine.pool.dispose()
        finally:
            THIS_THREAD.connects = depth

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it, and not a parent process before a fork."""
        return self.process == os.getpid()

    def require_ours(self) -> None:
        """Refuse to continue a transaction of the parent process in a forked child.

        Raises:
            StorageError: The transaction is the parent's.
        """
        if not self.is_ours:
            raise StorageError(_FORKED)

    def disconnect(self) -> None:
        """Disconnect a forked child from the parent's server, so that nothing sent reaches it."""
        disconnect = self.engine.get_execution_options().get("pipelit_disconnect")
        if disconnect is not None:
            disconnect()


@cache
def _locking(take: str, count: int) -> Statement:
    taken = ", ".join(f"{take}(:kind{n}, :name{n}) AS lock{n}" for n in range(count))
    return Statement(f"SELECT {taken}")


# The parent's connections that were in use during a fork. They are kept, because closing them would
# roll the parent's transaction back.
_INHERITED_CONNECTIONS: Final[list[object]] = []
_FORKED: Final = (
    "this process was forked in the middle of this transaction, which belongs to its parent: "
    "nothing was done here. In the child, don't continue the transaction, and end with os._exit"
)


def _closed(connection: Connection | PoolProxiedConnection, opened: _Opened) -> None:
    if not opened.is_ours:
        _INHERITED_CONNECTIONS.append(connection)
        return
    depth = THIS_THREAD.connects
    try:
        THIS_THREAD.connects = depth + 1
        connection.close()
    finally:
        THIS_THREAD.connects = depth
        opened.settle()


def _lock_key(name: str) -> tuple[int, int]:
    # An advisory lock is a pair of 32-bit numbers, in a space that is shared with the application.
    kind, _, which = name.partition(":")
    first, second = (crc32(part.encode()) for part in (f"pipelit {kind}", which))
    return first - 2**31, second - 2**31


# Options of Python's sqlite3 module and of SQLite URIs that transactions and locks depend on.
_SET_BY_US: Final = frozenset(
    {
        "autocommit", "cache", "check_same_thread", "detect_types", "factory", "immutable",
        "isolation_level", "nolock", "timeout",
    }
)  # fmt: skip
_REFUSED: Final = (UnicodeEncodeError, SQLAlchemyError)


class _NamedErrors:
    """Convert database errors to :class:`StorageError` with the name of the setting."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _REFUSED):
            raise _storage_error(self._engine, error) from None


def _storage_error(engine: Engine, error: Exception) -> StorageError:
    address = engine.url.render_as_string()
    if isinstance(error, UnicodeEncodeError):
        # Leave out the text, which may be a secret.
        if error.reason == "surrogates not allowed":
            return StorageError("text with a lone surrogate can't be stored")
        return StorageError(
            f"the connection to the database at {address} has the encoding {error.encoding}, which "
            f"lacks a character of the text: use a database in UTF-8 (setting: {URL_SETTING})"
        )
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) == LOST_PRIMARY:
        engine.get_execution_options()["pipelit_replace"]()
    # Only the driver's message, because SQLAlchemy's repeats the statement's parameters.
    return StorageError(
        f"the database at {address} refused the request "
        f"({type(cause).__name__}: {cause}){hint(cause, engine.url)} (setting: {URL_SETTING})"
    )


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


def _engine(url: str, pool_size: int, *, create: bool) -> Engine:
    """Create an engine, without a pool if ``pool_size`` is 0."""
    _require_readable(url)
    try:
        parsed = make_url(url)
        dialect = parsed.get_dialect()
        if dialect.is_async:
            raise ArgumentError(f"{dialect.name}+{dialect.driver} is an asyncio driver")  # noqa: TRY301 - said below
        if parsed.get_backend_name() == "postgresql":
            return server(parsed, pool_size, wait=BUSY_TIMEOUT)
        if parsed.get_backend_name() != "sqlite":
            raise ArgumentError("it must be sqlite:///… or postgresql+psycopg://…")  # noqa: TRY301 - said below
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
        raise ConfigurationError(
            f"{URL_SETTING} is not a database URL that can be used here ({error}); for example: "
            "sqlite:///.pipelit/agents.db, or postgresql+psycopg://user@host/database with "
            "pip install 'pipelit-agents[postgres]'"
        ) from None
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
    pool: dict[str, Any] = {"pool_size": 16 + _MAX_SPARE} if pool_size else {"poolclass": NullPool}
    engine = create_engine(
        parsed, connect_args={"timeout": BUSY_TIMEOUT}, hide_parameters=True, **pool
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={_synchronous()}")
        connection.execute("PRAGMA foreign_keys=ON")

    process = os.getpid()

    def require_ours(*_: object) -> None:
        if os.getpid() != process:
            raise StorageError(_FORKED)

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


def _synchronous() -> str:
    # Without a boot id, lost commits can't be detected after a power failure, so don't lose any.
    return "NORMAL" if boot_id() else "FULL"
