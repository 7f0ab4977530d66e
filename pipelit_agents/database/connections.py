"""The connections of an opened database: one engine, and who may use and close them.

Everything here may be interrupted by a signal handler, and may run in a forked child.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection

from pipelit_agents._forks import Unforked
from pipelit_agents.database.fast_path import named_by_driver
from pipelit_agents.database.process import INTERRUPTED, THIS_THREAD
from pipelit_agents.database.sqlite import FORKED, MAX_SPARE
from pipelit_agents.database.url import engine_of
from pipelit_agents.errors import StorageError

__all__ = ["Opened"]

C = TypeVar("C")
# The parent's connections that were in use during a fork. They are kept, because closing them would
# roll the parent's transaction back.
_INHERITED_CONNECTIONS: Final[list[object]] = []


class Opened(NamedTuple):
    """An engine with spare connections, opened by one process.

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
    def by(cls, engine: Engine, source: str) -> Opened:
        """Return an engine that this process has created for an address."""
        sqlite = engine.dialect.name == "sqlite"
        name = Path(engine.url.database or "").resolve() if sqlite else engine
        return cls(engine, deque(), name, [], source, os.getpid())

    def settle(self) -> None:
        """Close connections that were returned after ``Database.close``.

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
            raise StorageError(FORKED)

    def disconnect(self) -> None:
        """Disconnect a forked child from the parent's server, so that nothing sent reaches it."""
        disconnect = self.engine.get_execution_options().get("pipelit_disconnect")
        if disconnect is not None:
            disconnect()

    def unforked(self) -> AbstractContextManager[None]:
        """Let no thread fork while a connection of an SQLite file is in use."""
        sqlite = self.engine.dialect.name == "sqlite"
        return Unforked(self.name) if sqlite else nullcontext()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use it without forks, and close its connections if it was closed meanwhile."""
        with self.unforked():
            try:
                yield
            finally:
                self.settle()

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Use a connection of SQLAlchemy's."""
        connection = self.from_pool(lambda engine: engine.connect())
        try:
            yield connection
        finally:
            self.release(connection)

    def take(self) -> PoolProxiedConnection:
        """Return a connection of the driver's, in no transaction, to ``give_back``."""
        try:
            return self.spare.pop()
        except IndexError:
            pass
        try:
            return self.from_pool(lambda engine: engine.pool.connect())
        except Exception as error:
            raise named_by_driver(self.engine.dialect, error) from None

    def from_pool(self, connect: Callable[[Engine], C]) -> C:
        """Return what the function connects.

        Raises:
            StorageError: This thread was interrupted while it opened a connection, twice.
        """
        depth = THIS_THREAD.connects
        if depth > 1:
            raise StorageError(INTERRUPTED.format(what="opening a connection"))
        # This thread may hold the pool's locks, or the pool's last connection, and would wait for
        # itself.
        server = self.engine.dialect.name != "sqlite"
        apart = depth > 0 or (server and THIS_THREAD.holds > 1)
        engine = engine_of(self.source, 0, create=False) if apart else self.engine
        try:
            THIS_THREAD.connects = depth + 1
            return connect(engine)
        finally:
            THIS_THREAD.connects = depth

    def give_back(self, driver: PoolProxiedConnection) -> None:
        """Keep a connection that is in no transaction, or return it to the pool."""
        sqlite = self.engine.dialect.name == "sqlite"
        if sqlite and len(self.spare) < MAX_SPARE:
            self.spare.append(driver)
            self.settle()
        else:
            self.release(driver)

    def release(self, connection: Connection | PoolProxiedConnection) -> None:
        """Roll a connection back, and return it to the pool."""
        if not self.is_ours:
            _INHERITED_CONNECTIONS.append(connection)
            return
        depth = THIS_THREAD.connects
        try:
            THIS_THREAD.connects = depth + 1
            connection.close()
        finally:
            THIS_THREAD.connects = depth
            self.settle()
