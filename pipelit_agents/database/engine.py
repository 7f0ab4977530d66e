"""The database: opened at first use, with transactions that are safe in threads and forks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from pipelit_agents._forks import reset_in_forked_children, was_in_use
from pipelit_agents.database.causes import REFUSED, NamedErrors, storage_error
from pipelit_agents.database.connections import Opened
from pipelit_agents.database.fast_path import Query, Row, Transaction, Values
from pipelit_agents.database.locks import lock
from pipelit_agents.database.machine import boot_id, machine_uptime
from pipelit_agents.database.process import INTERRUPTED, THIS_THREAD
from pipelit_agents.database.schema import is_known_revision
from pipelit_agents.database.server import READING, URL_SETTING, begin
from pipelit_agents.database.sqlite import BUSY_TIMEOUT, begin_immediate, synchronous
from pipelit_agents.database.url import engine_of
from pipelit_agents.errors import StorageError

__all__ = ["Database"]

POOL_SIZE: Final = 8


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
        self._opened: Opened | None = None
        self._inherited: list[Opened] = []
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forget all connections in a forked child, without closing them.

        The parent still uses them.
        """
        if self._opened is not None:
            self._opened.disconnect()
            # Kept, because the connections are closed when it is garbage-collected.
            self._inherited.append(self._opened)
        self._opened = None
        self._known: Opened | None = None
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
        return self.open().engine

    def open(self, *, create: bool = False) -> Opened:
        """Open the database, if it isn't open.

        Args:
            create: Create the file of an SQLite database if it is missing.

        Raises:
            ConfigurationError: The URL can't be used, or the file can't be opened.
            StorageError: The file doesn't exist.
        """
        opened = self._opened
        if opened is None:
            with self._opening:
                opened = self._opened
                if opened is None:
                    url = self._url()
                    made = Opened.by(engine_of(url, self._pool_size, create=create), url)
                    # A handler that interrupted this thread may have opened the database already.
                    opened = self._opened = self._opened or made
        return opened

    def _ready(self) -> Opened:
        """Open the database, and check that its tables aren't of a newer version.

        Raises:
            StorageError: A newer pipelit-agents has migrated the tables.
        """
        opened = self.open()
        if opened is not self._known:
            with opened.in_use():
                if opened.from_pool(is_known_revision):
                    self._known = opened
        return opened

    @property
    def url(self) -> URL | None:
        """The database's URL, without opening it; None if it isn't a valid URL."""
        try:
            return make_url(self._url())
        except (ArgumentError, ValueError):
            return None

    def is_same_as(self, other: Database) -> bool:
        """Return whether another handle is for the same database, by its address.

        Each SQLite database in memory is another one.
        """
        if self is other:
            return True
        ours = self.url
        if ours is None or ours != other.url:
            return False
        in_memory = ours.database in (None, "", ":memory:") or "memory" in str(ours.query)
        return not (ours.get_backend_name() == "sqlite" and in_memory)

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
        with self._turn(opened), NamedErrors(engine), opened.connected() as connection:
            driver = connection.connection.dbapi_connection
            flushes = durable and engine.dialect.name == "sqlite" and driver is not None
            if flushes:
                driver.execute("PRAGMA synchronous=FULL")  # type: ignore[union-attr]
            try:
                with connection.begin():
                    yield connection
            finally:
                if flushes and opened.is_ours:
                    driver.execute(f"PRAGMA synchronous={synchronous()}")  # type: ignore[union-attr]

    @contextmanager
    def deciding(self) -> Iterator[Transaction]:
        """Begin a transaction like ``writing``, but faster and only for ``Statement``.

        Every verification uses it.

        Raises:
            StorageError: The database can't be reached, or refused a statement.
        """
        opened = self._ready()
        engine = opened.engine
        sqlite = engine.dialect.name == "sqlite"
        with self._turn(opened), NamedErrors(engine):
            driver = opened.take()
            try:
                transaction = Transaction(driver, engine.dialect)
                if sqlite:
                    begin_immediate(driver, engine.dialect)
                else:
                    begin(driver, engine.dialect)
                yield transaction
                opened.require_ours()
                transaction.commit()
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
                    opened.release(driver)
                raise
            opened.give_back(driver)

    @contextmanager
    def _turn(self, opened: Opened) -> Iterator[None]:
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
            with opened.unforked():
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
                opened.unforked(),
                NamedErrors(engine),
                opened.connected() as connection,
            ):
                connection.execution_options(**{READING: True})
                # Begin explicitly, because the driver's own statements wouldn't.
                with connection.begin():
                    yield connection
        finally:
            THIS_THREAD.holds = holds

    def fetch(self, query: Query[Row], values: Values) -> list[Row]:
        """Return the rows of one query, which reads one consistent state by itself.

        Raises:
            StorageError: The database can't be reached, or refused the query.
        """
        opened, holds = self._ready(), THIS_THREAD.holds
        engine = opened.engine
        try:
            THIS_THREAD.holds = holds + 1
            with opened.unforked():
                driver = opened.take()
                try:
                    if engine.dialect.name != "sqlite":
                        begin(driver, engine.dialect)
                    rows = query.fetch_by(driver, engine.dialect, values)
                except BaseException:
                    opened.release(driver)
                    raise
                opened.give_back(driver)
        except REFUSED as error:
            raise storage_error(engine, error) from None
        finally:
            THIS_THREAD.holds = holds
        return rows

    lock: Final = staticmethod(lock)

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

    def close(self) -> None:
        """Close all connections. The next use opens new ones."""
        opened = self._opened
        if opened is None:
            return
        # A fork closes the connections of what is open here, so it must see this before or after.
        with opened.unforked():
            with self._opening:
                if self._opened is opened:
                    self._opened = None
            opened.shut.append(True)
            opened.settle()
