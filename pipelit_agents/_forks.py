"""Reset locks, connections and threads in a forked child.

A child has the memory of its parent and one thread. Locks that other threads held stay held, and
SQLite assumes that it still has its parent's file locks, which it hasn't. So a fork waits, for a
few seconds at most, until no other thread is using SQLite, and closes the connections first. In the
child, everything is reset before a second thread can start.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from threading import get_ident
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["ForkAware", "Unforked", "reset_in_forked_children", "was_in_use"]

# Seconds that a fork waits for other threads. SQLite's own statements take milliseconds.
_THREADS_TIMEOUT: Final = 5.0
# Seconds.
_POLL_INTERVAL: Final = 0.0005
# Seconds that other threads wait for a fork. Longer, because each thread that forks waits in turn.
# Limited, because foreign code that runs before a fork may wait for one of these threads.
_FORK_TIMEOUT: Final = 30.0


class ForkAware(Protocol):
    """An object with locks or connections of its process."""

    def reset_after_fork(self) -> None:
        """Drop the parent's locks and connections without closing them: the parent uses them."""


_ALIVE: Final[WeakSet[ForkAware]] = WeakSet()


def reset_in_forked_children(thing: ForkAware) -> None:
    """Register an object to be reset in each forked child, for as long as the object exists.

    If it has a method ``before_fork``, that method is called before each fork. It returns the name
    of an object that is still in use, or None.
    """
    _ALIVE.add(thing)


class Unforked:
    """A block that mustn't be interrupted by a fork.

    A fork waits for threads that are in such a block, and a thread that enters one waits for a
    running fork. A thread that is already in such a block doesn't wait, nor does a thread that
    forks within one.

    Args:
        name: The name of the object that the block uses.
    """

    __slots__ = ("_thread", "name")

    def __init__(self, name: Hashable) -> None:
        self.name: Final = name
        self._thread = 0

    def __enter__(self) -> None:
        """Wait for a running fork."""
        # In this order, with no call in between: either the fork sees this block, or this block
        # sees the fork. Nothing can interrupt the thread between the first step and the block.
        self._thread = me = get_ident()
        _INSIDE[self] = me
        if _FORKING:
            self._wait(me)

    def __exit__(self, *_: object) -> None:
        """Let forks continue."""
        _INSIDE.pop(self, None)

    def _wait(self, me: int) -> None:
        del _INSIDE[self]
        if me not in _FORKING and me not in _INSIDE.values():
            deadline = time.monotonic() + _FORK_TIMEOUT
            while _FORKING and time.monotonic() < deadline:
                time.sleep(_POLL_INTERVAL)
        _INSIDE[self] = me


class _Turn:
    """Serializes forks, because each closes the connections.

    Attributes:
        lock: Held from before a fork until its end.
    """

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Create another lock."""
        self.lock = threading.RLock()


_TURN: Final = _Turn()
# The thread of each block; and for each forking thread, whether it holds the lock, once for each
# nested fork.
_INSIDE: Final[dict[Unforked, int]] = {}
_FORKING: Final[dict[int, list[bool]]] = {}
# Names of objects that are still in use during a running fork.
_LEFT: Final[set[Hashable]] = set()
# Names of objects that were in use when this process was forked.
_IN_USE: Final[set[Hashable]] = set()


def was_in_use(name: Hashable) -> bool:
    """Return whether an object was in use when this process or an ancestor was forked."""
    return name in _IN_USE


def _before_fork() -> None:
    me = get_ident()
    # After the timeout the fork continues without the lock, so that no thread can prevent forks.
    held = _TURN.lock.acquire(timeout=_FORK_TIMEOUT)
    _FORKING.setdefault(me, []).append(held)
    deadline = time.monotonic() + _THREADS_TIMEOUT
    while _others(me) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    for each in _alive():
        # Any exception: the fork can't be stopped, and no caller would receive the error.
        with suppress(Exception):
            left = getattr(each, "before_fork", _nothing)()
            if left is not None:
                _LEFT.add(left)


def _alive() -> list[ForkAware]:
    # Retried, because iterating a set fails if another thread adds to it meanwhile.
    for _ in range(100):
        with suppress(RuntimeError):
            return list(_ALIVE)
    return []


def _nothing() -> None:
    """Do nothing, for objects without a method ``before_fork``."""


def _others(me: int) -> bool:
    # Only threads that still run: a block in an unfinished generator can outlive its thread.
    inside = set(_INSIDE.copy().values()) - {me}
    return bool(inside) and not inside.isdisjoint(sys._current_frames())


def _after_fork_in_parent() -> None:
    me = get_ident()
    turns = _FORKING.get(me, [])
    held = bool(turns) and turns.pop()
    if not turns:
        _FORKING.pop(me, None)
    if not _FORKING:
        _LEFT.clear()
    if held:
        _TURN.lock.release()


def _after_fork_in_child() -> None:
    _IN_USE.update(_LEFT, (each.name for each in _INSIDE))
    for each in (_INSIDE, _FORKING, _LEFT):
        each.clear()
    _TURN.reset_after_fork()
    for thing in list(_ALIVE):
        thing.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
