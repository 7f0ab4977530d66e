"""Search the local variables of an exception's frames, which error trackers display."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import FrameType, TracebackType
from typing import Any, Final

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import children_of
from pipelit_agents.credentials.secret import Secret

__all__ = ["chain_of", "frames_hold_secret"]

# Objects to search per frame, nearest first. Texts and numbers don't count. Error trackers display
# fewer than that.
_MAX_OBJECTS: Final = 2000
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes and contexts, and the members of exception groups."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else ()


def frames_hold_secret(value: Any, patterns: Patterns) -> bool:
    """Return whether a local variable of an exception, a traceback or a frame holds a secret.

    Args:
        value: An exception, which is searched with its whole chain; a traceback; or a frame. Any
            other value has no frames.
        patterns: The secrets to search for.
    """
    seen: dict[int, Any] = {}
    return any(_holds(frame.f_locals, patterns, seen) for frame in _frames(value))


def _frames(value: Any) -> Iterator[FrameType]:
    if isinstance(value, BaseException):
        for each in chain_of(value):
            yield from _frames(each.__traceback__)
    elif isinstance(value, TracebackType):
        yield from (frame for frame, _ in traceback.walk_tb(value))
    elif isinstance(value, FrameType):
        yield from (frame for frame, _ in traceback.walk_stack(value))


def _holds(variables: Mapping[str, Any], patterns: Patterns, seen: dict[int, Any]) -> bool:
    # Search an object that several frames refer to only once.
    waiting: deque[Any] = deque([dict(variables)])
    left = _MAX_OBJECTS
    while waiting and left:
        each = waiting.popleft()
        if isinstance(each, str):
            if patterns.in_text(each):
                return True
        elif isinstance(each, bytes | bytearray):
            if patterns.in_bytes(bytes(each)):
                return True
        elif not isinstance(each, Secret | int | float | None) and id(each) not in seen:
            seen[id(each)] = each
            left -= 1
            if not isinstance(each, _CONTAINERS):
                waiting.extend(inner for _, inner in islice(children_of(each), _MAX_OBJECTS))
                continue
            parts = [*each, *each.values()] if isinstance(each, dict) else list(each)
            # Search all texts of a list at once, even those that trackers would cut off.
            texts = [part for part in parts if type(part) is str]
            if texts and patterns.in_text("\n\0\n".join(texts)):
                return True
            others = (p for p in parts if type(p) is not str and type(p) not in (int, float, bool))
            with suppress(RuntimeError):
                waiting.extend(islice(others, _MAX_OBJECTS))
    return False
