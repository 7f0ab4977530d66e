"""Locks of the process, and the state of its threads, across all databases."""

from __future__ import annotations

import threading
from typing import Final

from pipelit_agents._forks import reset_in_forked_children


class _ProcessLocks:
    """Locks that all databases of the process share."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Create new locks in a forked child, where no thread holds them."""
        # Alembic keeps the current migration in a global variable.
        self.migrating: threading.RLock = threading.RLock()
        # Held from creating a file until closing it: see make_private.
        self.making: threading.RLock = threading.RLock()


PROCESS_LOCKS: Final = _ProcessLocks()


class _ThreadState(threading.local):
    """The database operations that this thread is in.

    A signal handler, a finalizer (``__del__``) or a tracing function may interrupt the thread and
    use a database too. It then gets resources that the thread doesn't hold, or an error. It never
    waits for a lock of its own thread, because that would be a deadlock.

    Attributes:
        writes: The names of the databases in which the thread is in a writing transaction.
        holds: The number of connections that the thread holds.
        connects: The number of nested calls in a connection pool, where SQLAlchemy holds locks.
    """

    writes: tuple[object, ...] = ()
    holds: int = 0
    connects: int = 0

    def reset_after_fork(self) -> None:
        """Reset the state in a forked child, because the operations are the parent's."""
        self.writes, self.holds, self.connects = (), 0, 0


THIS_THREAD: Final = _ThreadState()
reset_in_forked_children(THIS_THREAD)
INTERRUPTED: Final = (
    "this thread is in the middle of {what}, and a signal handler, a finalizer (__del__) or another"
    " callback that interrupted it used the same database: it would wait for itself, so nothing was"
    " done. Set a flag in the handler, and do the work after the interrupted call has returned"
)
