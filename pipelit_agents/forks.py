"""Lets what a process can't share with the one that forked it begin anew in the child.

It happens within the fork, before a second thread of the child can be there to see it half done.
"""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet

__all__ = ["BeginsAnew", "begin_anew_in_children"]


class BeginsAnew(Protocol):
    """What has locks or connections of its process."""

    def begin_here(self) -> None:
        """Forgets the parent's, and closes none of them: the parent still uses them."""


_ALIVE: Final[WeakSet[BeginsAnew]] = WeakSet()


def begin_anew_in_children(thing: BeginsAnew) -> None:
    """Has it begin anew in each child that is forked from now on, as long as it lives."""
    _ALIVE.add(thing)


def _after_fork() -> None:
    for each in list(_ALIVE):
        each.begin_here()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
