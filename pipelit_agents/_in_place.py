"""Change a dictionary in place for a while, also for several calls at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final, TypeAlias

from pipelit_agents._forks import reset_in_forked_children

__all__ = ["changed_in_place"]

# Any: also a typed dictionary.
_Values: TypeAlias = MutableMapping[str, Any]


def changed_in_place(
    values: _Values, change: Callable[[], Mapping[str, Any]]
) -> Callable[[], None]:
    """Change a dictionary in place, and return a function that restores it; call that once.

    Calls at the same time may share a dictionary, and end in any order. Each changes what the
    others have made of it, and the last one that ends restores it.

    Args:
        values: The dictionary.
        change: Returns the new values, made of the present ones.
    """
    with _changed.lock:
        new = change()
        # Stored again: the garbage collector may have ended the last other call since the look-up.
        found = _changed.by_id.get(id(values)) or _Change(values)
        found.calls += 1
        _changed.by_id[id(values)] = found
        values.update(new)
    return partial(_end, values)


def _end(values: _Values) -> None:
    with _changed.lock:
        found = _changed.by_id[id(values)]
        found.calls -= 1
        if not found.calls:
            del _changed.by_id[id(values)]
            values.update(found.before)
            for name in values.keys() - found.before.keys():
                del values[name]


class _Change:
    """What a dictionary was, and how many calls have changed it since."""

    def __init__(self, values: _Values) -> None:
        self.before: Final = dict(values)
        self.calls = 0
        # So that no other dictionary gets its id.
        self._values = values


class _Changed:
    """The dictionaries of this process that are changed."""

    def __init__(self) -> None:
        self.by_id: Final[dict[int, _Change]] = {}
        self.reset_after_fork()
        reset_in_forked_children(self)

    def reset_after_fork(self) -> None:
        """Create another lock."""
        # The garbage collector may end a call while its thread has the lock.
        self.lock = threading.RLock()


_changed: Final = _Changed()
