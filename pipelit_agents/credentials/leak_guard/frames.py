"""The local variables of an exception's frames, which log handlers and error trackers show."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from types import FrameType, TracebackType
from typing import Any, Final

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import insides
from pipelit_agents.credentials.secret import Secret

__all__ = ["chain_of", "shown_in_frames"]

# Objects for each frame, the nearest first; texts and numbers aren't counted. Trackers show less.
_MOST: Final = 2000
_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An exception, its causes and contexts, and the parts of groups."""
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


def shown_in_frames(shown: Any, patterns: Patterns) -> bool:
    """Whether a local variable of an exception, a traceback or a frame holds a secret.

    Args:
        shown: The exception, with its whole chain; or a traceback, a frame, or anything else.
        patterns: What to look for.
    """
    seen: dict[int, Any] = {}
    return any(_holds(frame.f_locals, patterns, seen) for frame in _frames(shown))


def _frames(shown: Any) -> Iterator[FrameType]:
    if isinstance(shown, BaseException):
        for each in chain_of(shown):
            yield from _frames(each.__traceback__)
    elif isinstance(shown, TracebackType):
        yield from (frame for frame, _ in traceback.walk_tb(shown))
    elif isinstance(shown, FrameType):
        yield from (frame for frame, _ in traceback.walk_stack(shown))


def _holds(variables: Any, patterns: Patterns, seen: dict[int, Any]) -> bool:
    # What several frames refer to is looked at once.
    waiting: deque[Any] = deque([dict(variables)])
    left = _MOST
    while waiting and left:
        each = waiting.popleft()
        if isinstance(each, str):
            if patterns.within(each):
                return True
        elif isinstance(each, bytes | bytearray):
            if patterns.inside(bytes(each)):
                return True
        elif not isinstance(each, Secret | int | float | None) and id(each) not in seen:
            seen[id(each)] = each
            left -= 1
            if not isinstance(each, _CONTAINERS):
                waiting.extend(inner for _, inner in islice(insides(each), _MOST))
                continue
            parts = [*each, *each.values()] if isinstance(each, dict) else list(each)
            # Of long lists the texts in one go, also behind what trackers show.
            texts = [part for part in parts if type(part) is str]
            if texts and patterns.within("\n\0\n".join(texts)):
                return True
            others = (p for p in parts if type(p) is not str and type(p) not in (int, float, bool))
            with suppress(RuntimeError):
                waiting.extend(islice(others, _MOST))
    return False
