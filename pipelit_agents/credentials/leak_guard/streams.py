"""Find secrets that are streamed in pieces: a model's tokens, stream writes, a runnable's chunks.

A piece is passed on at once, unless its end may be the beginning of a secret. Then it is held back
until further text rules that out, or until the stream ends.

Readers of the stream can notice the delay. So text from the node's input is never held back, and
neither is a beginning so short that it could be guessed. Readers may therefore receive the public
beginning of a secret, such as ``sk-proj-``, and up to seven further characters (of a short secret,
less than half).
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import Final, Generic, TypeVar

from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation

from pipelit_agents.credentials.leak_guard.guard import Guard
from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.stored import stored_children

__all__ = ["DelayedCall", "Held", "Pieces", "current_source"]

# Possible secrets are looked up by their first characters. No beginning is shorter than this.
_HEAD_LENGTH: Final = 4
# How many earlier characters are searched with each piece; more if a secret is longer.
_TAIL_LENGTH: Final = 4096
# These keys distinguish streams that share one channel.
_IDENTIFYING_KEYS: Final = ("id", "index", "run_id", "message_id", "tool_call_id", "name", "type")
_MAX_DEPTH: Final = 12
_KEY: Final = "<key>"

T = TypeVar("T")
Path = tuple[Hashable, ...]


class Pieces:
    """The texts of one stream so far, and how many of its pieces may be passed on.

    Texts are joined by their path within the pieces: the content of a message, a content block or
    the arguments of a tool call by its index, a field by its name. Streams with different ids are
    joined separately, and also together in order of arrival.

    Args:
        guard: Knows the open secrets.
        where: What the stream is, for error messages.

    Attributes:
        leaked: Whether a secret was found in the stream.
    """

    def __init__(self, guard: Guard, where: str) -> None:
        self.leaked = False
        self._guard = guard
        self._where = where
        self._tails: dict[Path, str] = {}
        self._lengths: dict[Path, int] = {}
        # By path, the offset in its text at which a secret may begin.
        self._pending: dict[Path, int] = {}
        self._waiting: deque[dict[Path, int]] = deque()
        self._beginnings: _Beginnings | None = None

    def take(self, value: object) -> int:
        """Add the next piece.

        Returns:
            How many of the pieces held back so far, this one included, may be passed on now.

        Raises:
            SecretLeakError: The piece completes a secret.
        """
        patterns = self._guard.sought()
        if self._beginnings is None or self._beginnings.patterns is not patterns:
            self._beginnings = _Beginnings(patterns, self._guard.is_from_input)
        changed: dict[Path, str] = {}
        for path, text in _texts(value):
            changed[path] = changed.get(path, self._tails.get(path, "")) + text
            self._lengths[path] = self._lengths.get(path, 0) + len(text)
        try:
            self._guard.search(list(changed.values()), self._where)
        except BaseException:
            self.leaked = True
            raise
        for path, text in changed.items():
            begins = self._beginnings.find(text)
            if begins is None:
                self._pending.pop(path, None)
            else:
                self._pending[path] = self._lengths[path] - (len(text) - begins)
            self._tails[path] = text[-max(_TAIL_LENGTH, self._beginnings.longest) :]
        self._waiting.append({path: self._lengths[path] for path in changed})
        safe = 0
        while self._waiting and all(
            end <= self._pending.get(path, inf) for path, end in self._waiting[0].items()
        ):
            self._waiting.popleft()
            safe += 1
        return safe


class Held(Generic[T]):
    """The items of a stream that can't be passed on yet.

    Args:
        guard: Knows the open secrets.
        where: What the stream is, for error messages.
    """

    def __init__(self, guard: Guard, where: str) -> None:
        self._pieces = Pieces(guard, where)
        self._kept: deque[T] = deque()

    def add(self, item: T, piece: object) -> list[T]:
        """Add the next item, and return those that may be passed on now.

        Args:
            item: The item.
            piece: The part of the item to search.

        Raises:
            SecretLeakError: The piece completes a secret. What was held back is never passed on.
        """
        self._kept.append(item)
        return [self._kept.popleft() for _ in range(self._pieces.take(piece))]

    def rest(self) -> list[T]:
        """Return what was held back: the stream has ended, so it can't become a secret."""
        rest = [] if self._pieces.leaked else list(self._kept)
        self._kept.clear()
        return rest

    def refuse(self) -> None:
        """Pass nothing on any more: a secret was found in another way."""
        self._pieces.leaked = True

    def __len__(self) -> int:
        return len(self._kept)


class DelayedCall:
    """Call a function for each piece of a stream, in order, but hold back beginnings of secrets.

    Args:
        call: The function that passes a piece on.
        guard: Knows the open secrets.
        where: What the stream is, for error messages.
    """

    def __init__(self, call: Callable[..., object], guard: Guard, where: str) -> None:
        self._call = call
        self._held = Held[Callable[[], object]](guard, where)
        # A node may write from several threads.
        self._lock = threading.RLock()

    def __call__(
        self, value: object, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Pass a piece on, now or later.

        Args:
            value: The part of the piece to search.
            args: The positional arguments for the function.
            kwargs: The keyword arguments for the function.

        Returns:
            The function's return value; None if it is called later.

        Raises:
            SecretLeakError: The piece completes a secret. What was held back is not passed on.
        """
        with self._lock:
            result = None
            call = partial(self._call, *args, **kwargs)
            for each in self._held.add(call, (current_source(), value)):
                result = each()
            return None if self._held else result

    def flush(self) -> None:
        """Pass on what was held back: the stream has ended, so it can't become a secret."""
        with self._lock:
            for each in self._held.rest():
                each()


class _Beginnings:
    """Find text at the end of a stream that may be the beginning of a secret."""

    def __init__(self, patterns: Patterns, is_from_input: Callable[[str], bool]) -> None:
        self.patterns = patterns
        self.longest = max(map(len, patterns.texts), default=0)
        self._is_from_input = is_from_input
        self._by_head: dict[str, list[tuple[str, int]]] = {}
        for each, least in patterns.beginnings.items():
            self._by_head.setdefault(each[:_HEAD_LENGTH], []).append((each, least))
        heads = "|".join(map(re.escape, self._by_head))
        self._heads = re.compile(f"(?=({heads}))", re.DOTALL)

    def find(self, text: str) -> int | None:
        """Return the offset at which a secret may begin, or None."""
        if not self._by_head:
            return None
        begin = max(0, len(text) - self.longest + 1)
        for found in self._heads.finditer(text, begin):
            rest = text[found.start() :]
            if any(
                len(rest) >= least and each.startswith(rest)
                for each, least in self._by_head[found[1]]
            ) and not self._is_from_input(rest):
                return found.start()
        return None


def current_source() -> _Source:
    """Identify the current task or thread, to be put in front of the value that it streams."""
    # Two tasks of a node may write in turns, each the tokens of its own model.
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return _Source(id(task))
    return _Source(threading.get_ident())


@dataclasses.dataclass(frozen=True)
class _Source:
    """Identifies a task or thread; contains no text."""

    by: Hashable


def _texts(value: object) -> Iterator[tuple[Path, str]]:
    """Yield each text in a streamed value with two paths: with the ids of its stream, and without.

    The blocks of a message are also joined in order of arrival.
    """
    source: Path = ()
    if isinstance(value, tuple) and value and isinstance(value[0], _Source):
        source, value = (value[0],), value[1]
    for by_source, merged, text in _walk(value, (), (), 0, set()):
        yield ("by_source", *source, *by_source), text
        yield ("merged", *merged), text


def _walk(
    value: object, by_source: Path, merged: Path, depth: int, seen: set[int]
) -> Iterator[tuple[Path, Path, str]]:
    if isinstance(value, str):
        yield by_source, merged, value
    elif isinstance(value, bytes | bytearray | memoryview):
        yield by_source, merged, bytes(value).decode("utf-8", "replace")
    elif value is None or isinstance(value, int | float) or depth > _MAX_DEPTH:
        return
    elif isinstance(value, Generation):
        message = getattr(value, "message", None)
        yield from _walk(
            value.text if message is None else message, by_source, merged, depth + 1, seen
        )
    elif isinstance(value, BaseMessage):
        by_source = (*by_source, value.id)
        yield from _walk(
            value.content, (*by_source, "content"), (*merged, "content"), depth + 1, seen
        )
        if not isinstance(value.content, str):
            yield by_source, (*merged, "text"), str(value.text)
        for field in ("tool_call_chunks", "additional_kwargs"):
            found = getattr(value, field, None)
            yield from _walk(found, (*by_source, field), (*merged, field), depth + 1, seen)
    elif isinstance(value, Mapping):
        identity = tuple(
            (name, value[name]) for name in _IDENTIFYING_KEYS if _identifies(value.get(name))
        )
        for key, each in value.items():
            # All keys share one path, so that a secret in pieces is found in keys too.
            yield from _walk(key, (*by_source, identity, _KEY), (*merged, _KEY), depth + 1, seen)
            if key not in _IDENTIFYING_KEYS or not _identifies(each):
                yield from _walk(each, (*by_source, identity, key), (*merged, key), depth + 1, seen)
    elif isinstance(value, list | tuple):
        if value and all(type(each) is int and 0 <= each < 256 for each in value):
            yield by_source, merged, bytes(value).decode("utf-8", "replace")
        for index, each in enumerate(value):
            indexed = isinstance(each, Mapping) and "index" in each
            yield from _walk(
                each, by_source if indexed else (*by_source, index), merged, depth + 1, seen
            )
    elif id(value) not in seen:
        # Objects may refer to each other in a circle: visit each one once.
        seen.add(id(value))
        for name, each in stored_children(value):
            yield from _walk(each, (*by_source, name), (*merged, name), depth + 1, seen)


def _identifies(value: object) -> bool:
    return isinstance(value, str | int) and value != ""
