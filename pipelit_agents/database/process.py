"""What this process and its threads are in the middle of, over all databases."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from pipelit_agents._forks import reset_in_forked_children

if TYPE_CHECKING:
    pass


class _Global:
    """Locks that all databases of the process share."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Forget who held them; in a forked child nobody does."""
        # Alembic keeps the migration that is under way in a global variable.
        self.migrating = threading.RLock()
        # For a file between its being made and its being closed: see _make_private.
        self.making = threading.RLock()


PROCESS_LOCKS: Final = _Global()


class _Here(threading.local):
    """What this thread is in the middle of.

    A signal handler, a finalizer (``__del__``) or a tracing function may interrupt it there and use
    a database too: it gets what the thread doesn't hold, or an error. It never waits for a lock
    that its own thread has, as nobody would ever give that back.

    Attributes:
        writes: The databases in which it has a transaction that writes, by their addresses.
        holds: How many connections it has.
        connects: How deep it is in a connection pool, where SQLAlchemy holds locks.
    """

    writes: tuple[object, ...] = ()
    holds = 0
    connects = 0

    def reset_after_fork(self) -> None:
        """Forget all of it; in a forked child it is the parent that is in the middle of it."""
        self.writes, self.holds, self.connects = (), 0, 0


THIS_THREAD: Final = _Here()
INTERRUPTED: Final = (
    "this thread is in the middle of {what}, and a signal handler, a finalizer (__del__) or another"
    " callback that interrupted it there asked for the same database: it would wait for itself, so "
    "nothing was done. Set a flag in the handler, and do the work when the interrupted call is over"
)
