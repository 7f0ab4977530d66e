"""Read exceptions by their fields in C: chain, group members, and the variables of their frames.

Error trackers display local variables. No foreign code runs to find the exceptions and frames: an
exception's class may be frozen, or override any attribute.
"""

from __future__ import annotations

import traceback
from collections.abc import Container, Iterator
from types import FrameType, TracebackType
from typing import Any, Final

from pipelit_agents.credentials.leak_guard.own_forms import Budget, children_of_each
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.stored import is_trusted_array
from pipelit_agents.credentials.leak_guard.written import LEAVES, as_bytes
from pipelit_agents.credentials.secret import Secret

__all__ = ["Frames", "chain_of", "frames_hold_secret", "members_of_group", "read_field"]

LINKS: Final = ("__cause__", "__context__")
# Objects to search per frame. Texts and numbers don't count. A frame with more counts as one that
# shows a secret.
_MAX_OBJECTS: Final = 2000
_MAX_CLEARING: Final = 500
_AT_ONCE: Final = 8
_MAX_ARRAY: Final = 65_536


def read_field(error: BaseException, name: str) -> Any:
    """Return a field of an exception, such as ``__cause__``; Any: each has a type of its own."""
    return BaseException.__dict__[name].__get__(error)


def members_of_group(error: BaseException) -> tuple[BaseException, ...]:
    """Return the members of an exception group; none for another exception."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = BaseExceptionGroup.__dict__["exceptions"].__get__(error)
    return found


def chain_of(error: BaseException, known: Container[int] = ()) -> Iterator[BaseException]:
    """Yield an exception, its causes and contexts, and the members of exception groups.

    Args:
        error: The exception. Its chain may be of any length, and may contain itself.
        known: The ids of exceptions to leave out, with what only they refer to.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen and id(each) not in known:
            seen.add(id(each))
            yield each
            waiting += [read_field(each, name) for name in LINKS]
            waiting += members_of_group(each)


def frames_hold_secret(value: object, patterns: Patterns) -> bool:
    """Return whether a local variable of an exception, a traceback or a frame holds a secret.

    Args:
        value: An exception, which is searched with its whole chain; a traceback; or a frame. Any
            other value has no frames.
        patterns: The secrets to search for.
    """
    frames = Frames(patterns, clearing=False)
    return any(frames.show_secret(each) for each in _frames(value))


def _frames(value: object) -> Iterator[FrameType]:
    if isinstance(value, BaseException):
        for each in chain_of(value):
            yield from _frames(read_field(each, "__traceback__"))
    elif isinstance(value, TracebackType):
        yield from (frame for frame, _ in traceback.walk_tb(value))
    elif isinstance(value, FrameType):
        yield from (frame for frame, _ in traceback.walk_stack(value))


class Frames:
    """Search the local variables of frames, which share most of their objects.

    Args:
        patterns: The secrets to search for.
        clearing: Whether to find each frame that shows a secret, in little time. Otherwise one is
            enough, so more is looked into.
    """

    def __init__(self, patterns: Patterns, *, clearing: bool) -> None:
        self._patterns = patterns
        self._clearing = clearing
        self._most = _MAX_CLEARING if clearing else _MAX_OBJECTS
        self._budget = Budget()
        # By id: an object, whether one of its texts holds a secret, and the other objects in it.
        self._known: dict[int, tuple[object, bool, list[object]]] = {}

    def show_secret(self, frame: FrameType) -> bool:
        """Return whether a frame's variables lead to a secret, or to too many objects to search."""
        level: list[object] = [dict(frame.f_locals)]
        # What earlier frames have shown holds no secret, if one frame is enough.
        seen: set[int] = set() if self._clearing else set(self._known)
        most = len(seen) + self._most
        while level:
            self._read([each for each in level if id(each) not in self._known])
            if self._budget.left <= 0 or any(self._known[id(each)][1] for each in level):
                return True
            seen.update(map(id, level))
            inner = {id(part): part for each in level for part in self._known[id(each)][2]}
            level = [part for key, part in inner.items() if key not in seen]
            if len(seen) + len(level) > most:
                # What is displayed of so many can't be told, so nothing is.
                return True
        return False

    def _read(self, values: list[object]) -> None:
        # Some at a time: one thread for each would take long, and all at once much memory.
        for start in range(0, len(values), _AT_ONCE):
            some = values[start : start + _AT_ONCE]
            for each, parts in zip(some, children_of_each(some, self._budget), strict=True):
                texts, others = list[bytes](), list[object]()
                for part in parts:
                    kind = type(part)
                    if (text := None if kind is memoryview else as_bytes(part)) is not None:
                        texts.append(text)
                    elif not (
                        kind in LEAVES
                        or issubclass(kind, Secret)
                        # Displays shorten them, and reading them takes long.
                        or (self._clearing and _is_large_array(part, kind))
                    ):
                        others.append(part)
                shows = self._patterns.in_bytes(b"\n\0\n".join(texts))
                self._known[id(each)] = each, shows, others[: self._most]


def _is_large_array(value: Any, kind: type) -> bool:
    if kind is not memoryview and not (hasattr(kind, "tobytes") and is_trusted_array(kind)):
        return False
    size: int | None = getattr(value, "nbytes", None)
    return (len(value) * value.itemsize if size is None else size) > _MAX_ARRAY
