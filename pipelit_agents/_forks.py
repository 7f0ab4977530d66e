"""Reset in a forked child what a process can't share with the one that forked it.

A child has the memory of its parent and one thread. Locks that other threads held stay held in it,
and SQLite believes that it has the file locks of its parent, which it hasn't. So a fork waits until
no other thread is in the middle of SQLite, for some seconds at the most, and has the connections
closed first. In the child, everything begins anew before a second thread can see it half done.
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
_PATIENCE: Final = 5.0
_INTERVAL: Final = 0.0005
# Seconds that other threads wait for a fork. Longer, as each thread that forks waits in turn; but
# never for good: the code of somebody else that runs before a fork may wait for one of them.
_LONG_PATIENCE: Final = 30.0


class ForkAware(Protocol):
    """What has locks or connections of its process."""

    def reset_after_fork(self) -> None:
        """Forget the parent's, and close none of them: the parent still uses them."""


_ALIVE: Final[WeakSet[ForkAware]] = WeakSet()


def reset_in_forked_children(thing: ForkAware) -> None:
    """Have it begin anew in each child that is forked from now on, as long as it lives.

    If it has a method ``before_fork``, that is called before each fork. It returns the name of what
    is still in use, or None.
    """
    _ALIVE.add(thing)


class Unforked:
    """Around what mustn't be half done in a forked child.

    A fork waits for the threads that are in one, and they wait for a fork. A thread that is in one
    already doesn't wait, and neither does one that forks within it.

    Args:
        name: Of what is used.
    """

    __slots__ = ("_thread", "name")

    def __init__(self, name: Hashable) -> None:
        self.name: Final = name
        self._thread = 0

    def __enter__(self) -> None:
        """Wait for a fork that is under way."""
        # In this order, with nothing called between: a fork sees this, or this sees the fork. And
        # nothing can interrupt the thread after the first step before it is in the block.
        self._thread = me = get_ident()
        _INSIDE[self] = me
        if _FORKING:
            self._wait(me)

    def __exit__(self, *_: object) -> None:
        """Let forks go on."""
        _INSIDE.pop(self, None)

    def _wait(self, me: int) -> None:
        del _INSIDE[self]
        if me not in _FORKING and me not in _INSIDE.values():
            patience = time.monotonic() + _LONG_PATIENCE
            while _FORKING and time.monotonic() < patience:
                time.sleep(_INTERVAL)
        _INSIDE[self] = me


class _Turn:
    """Lets forks follow each other: the connections are closed in the course of one.

    Attributes:
        lock: Held from before a fork to its end.
    """

    def __init__(self) -> None:
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget who holds it."""
        self.lock = threading.RLock()


_TURN: Final = _Turn()
# By thread; of those that fork, whether it has the turn, for each fork within a fork.
_INSIDE: Final[dict[Unforked, int]] = {}
_FORKING: Final[dict[int, list[bool]]] = {}
# What stays in use in a fork that is under way.
_LEFT: Final[set[Hashable]] = set()
# What was in use when this process was forked.
_IN_USE: Final[set[Hashable]] = set()


def was_in_use(name: Hashable) -> bool:
    """Whether it was in the middle of something when this process, or one before, was forked."""
    return name in _IN_USE


def _before_fork() -> None:
    me = get_ident()
    # Without it, in the end: nobody may keep others from forking.
    held = _TURN.lock.acquire(timeout=_LONG_PATIENCE)
    _FORKING.setdefault(me, []).append(held)
    patience = time.monotonic() + _PATIENCE
    while _others(me) and time.monotonic() < patience:
        time.sleep(_INTERVAL)
    for each in _alive():
        # Whatever it is: the fork can't be stopped, and nobody would be told.
        with suppress(Exception):
            left = getattr(each, "before_fork", _nothing)()
            if left is not None:
                _LEFT.add(left)


def _alive() -> list[ForkAware]:
    # Other threads may add to it meanwhile, and then a set can't be read to its end.
    for _ in range(100):
        with suppress(RuntimeError):
            return list(_ALIVE)
    return []


def _nothing() -> None:
    """Stand in for a method that isn't there."""


def _others(me: int) -> bool:
    # A generator that was left in the middle may have been its thread's last.
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
