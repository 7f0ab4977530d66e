"""Secrets that come in pieces: tokens of a model, writes to a stream, chunks of a runnable.

What is streamed is handed on at once, unless its end may be the beginning of a secret: then it is
kept back until more text shows that it isn't, or until the stream ends.

What is kept back comes later than the rest, which anybody sees who reads the stream. So nothing
that the node was given is kept back, and nothing is that shows fewer characters than somebody
could guess: of a secret, a consumer gets what everybody knows of its kind, such as ``sk-proj-``,
and up to seven characters more (of a short one, less than half).
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Any, Final, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.traversal import kept_in

__all__ = ["Held", "Pieces", "Searched", "here"]

# By so many characters the secrets are looked up that may go on. No beginning is shorter.
_HEAD: Final = 4
# So much of what came before is searched with each piece, or as much as the longest secret.
_TAIL: Final = 4096
# What tells one stream from another that goes the same way.
_APART: Final = ("id", "index", "run_id", "message_id", "tool_call_id", "name", "type")
_DEEP: Final = 12
_KEY: Final = "<key>"

Place = tuple[Hashable, ...]


class Searched(Protocol):
    """What knows the open secrets."""

    def check(self, value: Any, where: str) -> None:
        """Raises SecretLeakError for a value that holds one of them."""

    def sought(self) -> Patterns:
        """What they look like."""

    def was_given(self, text: str) -> bool:
        """Whether a text stood in what the node was given."""


class Pieces:
    """One stream: what its texts are so far, and how much of it may be handed on.

    Texts that belong together are put together by their place in what is streamed: the content of
    a message, a content block and the arguments of a tool call by its index, a field by its name.
    Streams that are told apart by an id are put together apart, and also as they come.

    Args:
        guard: Knows the open secrets.
        where: Which way out it is, for the message of an error.
    """

    def __init__(self, guard: Searched, where: str) -> None:
        self.leaked = False
        self._guard = guard
        self._where = where
        self._tails: dict[Place, str] = {}
        self._lengths: dict[Place, int] = {}
        # Where in the text of a place the possible beginning of a secret is.
        self._pending: dict[Place, int] = {}
        self._waiting: deque[dict[Place, int]] = deque()
        self._beginnings: _Beginnings | None = None

    def take(self, value: Any) -> int:
        """Add what comes next.

        Returns:
            How many of what was added and not handed on yet may be handed on now.

        Raises:
            SecretLeakError: With it, a secret is whole.
        """
        patterns = self._guard.sought()
        if self._beginnings is None or self._beginnings.patterns is not patterns:
            self._beginnings = _Beginnings(patterns, self._guard.was_given)
        changed: dict[Place, str] = {}
        for place, text in _texts(value):
            changed[place] = changed.get(place, self._tails.get(place, "")) + text
            self._lengths[place] = self._lengths.get(place, 0) + len(text)
        try:
            self._guard.check(list(changed.values()), self._where)
        except BaseException:
            self.leaked = True
            raise
        for place, text in changed.items():
            begins = self._beginnings.find(text)
            if begins is None:
                self._pending.pop(place, None)
            else:
                self._pending[place] = self._lengths[place] - (len(text) - begins)
            self._tails[place] = text[-max(_TAIL, self._beginnings.longest) :]
        self._waiting.append({place: self._lengths[place] for place in changed})
        safe = 0
        while self._waiting and all(
            end <= self._pending.get(place, inf) for place, end in self._waiting[0].items()
        ):
            self._waiting.popleft()
            safe += 1
        return safe


class Held:
    """Calls a function with what comes, in order, and keeps back what may begin a secret.

    Args:
        call: Hands one thing on.
        guard: Knows the open secrets.
        where: Which way out it is, for the message of an error.
    """

    def __init__(self, call: Callable[..., Any], guard: Searched, where: str) -> None:
        self._call = call
        self._pieces = Pieces(guard, where)
        self._kept: deque[tuple[tuple[Any, ...], dict[str, Any]]] = deque()
        # A node may write from several threads.
        self._lock = threading.RLock()

    def __call__(self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand something on, now or later.

        Args:
            value: What of it is searched.
            args: What the function is called with.
            kwargs: As args.

        Returns:
            What the function returns; None where it is called later.

        Raises:
            SecretLeakError: With it, a secret is whole. What was kept back isn't handed on.
        """
        with self._lock:
            self._kept.append((args, kwargs))
            result = None
            for _ in range(self._pieces.take((here(), value))):
                args, kwargs = self._kept.popleft()
                result = self._call(*args, **kwargs)
            return None if self._kept else result

    def flush(self) -> None:
        """Hand on what is left: nothing comes any more that could make a secret of it."""
        with self._lock:
            while self._kept and not self._pieces.leaked:
                args, kwargs = self._kept.popleft()
                self._call(*args, **kwargs)


class _Beginnings:
    """Finds what may be the beginning of a secret at the end of a text."""

    def __init__(self, patterns: Patterns, was_given: Callable[[str], bool]) -> None:
        self.patterns = patterns
        self.longest = max(map(len, patterns.texts), default=0)
        self._was_given = was_given
        self._by_head: dict[str, list[tuple[str, int]]] = {}
        for each, least in patterns.beginnings.items():
            self._by_head.setdefault(each[:_HEAD], []).append((each, least))
        heads = "|".join(map(re.escape, self._by_head))
        self._heads = re.compile(f"(?=({heads}))", re.DOTALL)

    def find(self, text: str) -> int | None:
        """Where the first one begins that the text may go on with, or None."""
        if not self._by_head:
            return None
        begin = max(0, len(text) - self.longest + 1)
        for found in self._heads.finditer(text, begin):
            rest = text[found.start() :]
            if any(
                len(rest) >= least and each.startswith(rest)
                for each, least in self._by_head[found[1]]
            ) and not self._was_given(rest):
                return found.start()
        return None


def here() -> Any:
    """What tells the task or thread that streams from others; to stand before what it streams."""
    # Two tasks of a node may write by turns, each what its own model says.
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return _Apart(id(task))
    return _Apart(threading.get_ident())


@dataclasses.dataclass(frozen=True)
class _Apart:
    """Tells apart, and holds no text."""

    by: Hashable


def _texts(value: Any) -> Iterator[tuple[Place, str]]:
    """Each text in something that is streamed, by its place: with what tells it apart, and without.

    A message's blocks are also put together in the order in which they come.
    """
    source: Place = ()
    if isinstance(value, tuple) and value and isinstance(value[0], _Apart):
        source, value = (value[0],), value[1]
    for apart, merged, text in _walk(value, (), (), 0, set()):
        yield ("apart", *source, *apart), text
        yield ("merged", *merged), text


def _walk(
    value: Any, apart: Place, merged: Place, deep: int, seen: set[int]
) -> Iterator[tuple[Place, Place, str]]:
    if isinstance(value, str):
        yield apart, merged, value
    elif isinstance(value, bytes | bytearray | memoryview):
        yield apart, merged, bytes(value).decode("utf-8", "replace")
    elif value is None or isinstance(value, int | float) or deep > _DEEP:
        return
    elif isinstance(value, Generation):
        message = getattr(value, "message", None)
        yield from _walk(value.text if message is None else message, apart, merged, deep + 1, seen)
    elif isinstance(value, BaseMessage):
        apart = (*apart, value.id)
        yield from _walk(value.content, (*apart, "content"), (*merged, "content"), deep + 1, seen)
        if not isinstance(value.content, str):
            yield apart, (*merged, "text"), str(value.text)
        for field in ("tool_call_chunks", "additional_kwargs"):
            found = getattr(value, field, None)
            yield from _walk(found, (*apart, field), (*merged, field), deep + 1, seen)
    elif isinstance(value, Mapping):
        told = tuple((name, value[name]) for name in _APART if _tells(value.get(name)))
        for key, each in value.items():
            # Of a piece as a key, the place is that it is one.
            yield from _walk(key, (*apart, told, _KEY), (*merged, _KEY), deep + 1, seen)
            if key not in _APART or not _tells(each):
                yield from _walk(each, (*apart, told, key), (*merged, key), deep + 1, seen)
    elif isinstance(value, list | tuple):
        if value and all(type(each) is int and 0 <= each < 256 for each in value):
            yield apart, merged, bytes(value).decode("utf-8", "replace")
        for place, each in enumerate(value):
            indexed = isinstance(each, Mapping) and "index" in each
            yield from _walk(each, apart if indexed else (*apart, place), merged, deep + 1, seen)
    elif id(value) not in seen:
        # Of objects that point at each other, each once.
        seen.add(id(value))
        for name, each in kept_in(value):
            yield from _walk(each, (*apart, name), (*merged, name), deep + 1, seen)


def _tells(value: Any) -> bool:
    return isinstance(value, str | int) and value != ""
