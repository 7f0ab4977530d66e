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
from json import JSONDecoder
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
# How many texts are compared to find their frame: two may have more in common by chance.
_COMPARED: Final = (1, 3)
_RECENT: Final = 16
_MAX_FRAMES: Final = 4
_MAX_FRAME: Final = 512
# How many different texts may grow by turns.
_MAX_GROWN: Final = 2
# How many further pieces can show that a beginning of a secret was before the end of a frame.
_MAX_UNSURE: Final = 4
# Longer texts aren't parsed as JSON.
_MAX_DOCUMENT: Final = 65_536
_MAX_DOCUMENTS: Final = 64
_KEY: Final = "<key>"
_JSON: Final = "<JSON>"
_DOCUMENT: Final = re.compile(r"[{\[]")
_DECODER: Final = JSONDecoder(strict=False)

T = TypeVar("T")
Path = tuple[Hashable, ...]


class Pieces:
    """The texts of one stream so far, and how many of its pieces may be passed on.

    Texts are put together by their path within the pieces: the content of a message, a content
    block or the arguments of a tool call by its index, a field by its name. Streams with different
    ids are put together separately, and also in order of arrival.

    Args:
        guard: Knows the open secrets.
        where: What the stream is, for error messages.

    Attributes:
        leaked: Whether a secret was found in the stream.
    """

    def __init__(self, guard: Guard, where: str) -> None:
        self.leaked: bool = False
        self._guard = guard
        self._where = where
        self._readings: dict[Path, _Readings] = {}
        # The number of pieces that were added, and of those that may be passed on.
        self._added = 0
        self._safe = 0
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
        texts: dict[Path, str] = {}
        for path, text in _texts(value):
            texts[path] = texts.get(path, "") + text
        changed = [
            (readings, text, readings.after(text))
            for path, text in texts.items()
            for readings in (self._readings.setdefault(path, _Readings()),)
        ]
        try:
            found = dict.fromkeys(text for _, _, lines in changed for _, text in lines)
            self._guard.search(list(found), self._where)
        except BaseException:
            self.refuse()
            raise
        for readings, text, lines in changed:
            readings.add(text, self._added, lines, self._beginnings)
        self._added += 1
        before, held = self._safe, [each.held_from(self._added) for each in self._readings.values()]
        self._safe = max(before, min(held, default=self._added))
        return self._safe - before

    def refuse(self) -> None:
        """Forget the pieces that were held back: a secret was found, so they are never safe."""
        self.leaked = True
        self._readings.clear()
        self._safe = self._added


class _Line:
    """A text that grows by the pieces of a stream; the number of a piece is its place in it.

    Attributes:
        text: The text; of a long one, the end.
        held_from: The first piece with characters of what may be a secret; None if there is none.
    """

    def __init__(self) -> None:
        self.text = ""
        self.held_from: int | None = None
        # Where pieces end, counted from the end of the text.
        self._ends: deque[tuple[int, int]] = deque()
        self._length = 0

    def extend(self, text: str, number: int, beginnings: _Beginnings | None = None) -> None:
        """Continue with a text that begins with the last one.

        Args:
            text: The whole text.
            number: The number of the piece.
            beginnings: The secrets to search for; None for a text that was searched before.
        """
        self._length += len(text) - len(self.text)
        self._ends.append((self._length, number))
        begins = None if beginnings is None else beginnings.find(text)
        offset = inf if begins is None else self._length - (len(text) - begins)
        if beginnings is not None:
            while self._ends and self._ends[0][0] <= offset:
                self._ends.popleft()
        self.held_from = self._ends[0][1] if self._ends and beginnings is not None else None
        self.text = text

    def shorten(self, most: int) -> None:
        """Keep only the end of the text."""
        self.text = self.text[-most:]


_Frame = tuple[str, str]


class _Readings:
    """The ways in which a consumer may put the texts of one path together.

    Each text continues the one before. Or it repeats it, as "the text so far" does; or only what is
    between the same beginning and end continues it, as in lines of server-sent events.
    """

    def __init__(self) -> None:
        self._joined = _Line()
        self._framed: dict[_Frame, _Line] = {}
        # By what follows the text so far, such as a cursor.
        self._grown: dict[str, list[_Line]] = {"": []}
        self._recent: deque[tuple[int, str]] = deque(maxlen=_RECENT)
        self._unsure: int | None = None

    def held_from(self, added: int) -> int:
        """Return the number of the first piece that is held back, or of the next piece."""
        lines = [self._joined, *self._framed.values()]
        for each in self._grown.values():
            lines += each
        held = [each.held_from for each in lines if each.held_from is not None]
        if self._unsure is not None and added - self._unsure <= _MAX_UNSURE:
            held.append(self._unsure)
        return min(held, default=added)

    def after(self, text: str) -> list[tuple[_Line, str]]:
        """Return the lines that a text continues, each with its text afterwards."""
        self._learn(text)
        found = [(self._joined, self._joined.text + text)]
        for (start, end), line in self._framed.items():
            if _is_framed(text, start, end):
                found.append((line, line.text + text[len(start) : len(text) - len(end)]))
        for end, lines in self._grown.items():
            if text.endswith(end):
                bare = text[: len(text) - len(end)]
                grown = next((each for each in lines if bare.startswith(each.text)), None)
                line = _Line() if grown is None else grown
                lines[:] = [*(each for each in lines if each is not grown), line][-_MAX_GROWN:]
                found.append((line, bare))
        return found

    def add(
        self,
        text: str,
        number: int,
        lines: list[tuple[_Line, str]],
        beginnings: _Beginnings,
    ) -> None:
        """Add a text, after ``after`` has returned its lines."""
        grown = {id(each) for some in self._grown.values() for each in some if each.text}
        grows = any(id(line) in grown for line, _ in lines)
        for line, whole in lines:
            line.extend(whole, number, beginnings)
        self._joined.shorten(max(_TAIL_LENGTH, beginnings.longest))
        for line in self._framed.values():
            line.shorten(beginnings.longest)
        # Where a beginning is followed by other text, only the next text shows whether that is the
        # end of a frame. A text that grows has shown it.
        unsure = not grows and beginnings.find(text, _MAX_FRAME) is not None
        self._unsure = number if unsure else None
        self._recent.append((number, text))

    def _learn(self, text: str) -> None:
        """Find the frames that a text has in common with the texts before it."""
        for last in _COMPARED:
            some = [each for _, each in self._recent][-last:]
            if len(some) < last or all(each == text for each in some):
                continue
            start, end = _common_frame([*some, text])
            frame = self._framed.pop((start, end), None)
            if frame is None and (start or end):
                frame = _Line()
                for number, each in self._recent:
                    if _is_framed(each, start, end):
                        frame.extend(frame.text + each[len(start) : len(each) - len(end)], number)
            if frame is not None:
                self._framed[start, end] = frame
            if end not in self._grown:
                self._grown[end] = [_Line()]
                number, each = self._recent[-1]
                self._grown[end][0].extend(each[: len(each) - len(end)], number)
        while len(self._framed) > _MAX_FRAMES:
            del self._framed[next(iter(self._framed))]
        ends = {"", *(end for _, end in self._framed)}
        self._grown = {end: lines for end, lines in self._grown.items() if end in ends}


def _common_start(texts: list[str]) -> str:
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((index for index, (a, b) in pairs if a != b), len(first))]


def _is_framed(text: str, start: str, end: str) -> bool:
    return len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end)


def _common_frame(texts: list[str]) -> _Frame:
    """Return what texts begin and end with; letters and digits next to the rest belong to it."""
    start = _common_start([each[:_MAX_FRAME] for each in texts])
    while start and start[-1].isalnum():
        start = start[:-1]
    end = _common_start([each[len(start) :][: -_MAX_FRAME - 1 : -1] for each in texts])[::-1]
    while end and end[0].isalnum():
        end = end[1:]
    return start, end


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
        try:
            safe = self._pieces.take(piece)
        except BaseException:
            self._kept.clear()
            raise
        self._kept.append(item)
        return [self._kept.popleft() for _ in range(safe)]

    def rest(self) -> list[T]:
        """Return what was held back: the stream has ended, so it can't become a secret."""
        rest = list(self._kept)
        self._kept.clear()
        return rest

    def refuse(self) -> None:
        """Never pass on what was held back: a secret was found in another way."""
        self._pieces.refuse()
        self._kept.clear()

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

    def refuse(self) -> None:
        """Never pass on what was held back: a secret was found in another way."""
        with self._lock:
            self._held.refuse()

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

    def find(self, text: str, after: int = 0) -> int | None:
        """Return the offset at which a secret may begin, or None.

        Args:
            text: The text, which ends with the beginning of a secret.
            after: How many further characters may be after it.
        """
        if not self._by_head:
            return None
        begin = max(0, len(text) - self.longest + 1 - after)
        for found in self._heads.finditer(text, begin):
            rest = text[found.start() :]
            for each, least in self._by_head[found[1]]:
                some = rest if not after else _common_start([rest, each])
                if (
                    len(some) >= least
                    and each.startswith(some)
                    and len(rest) - len(some) <= after
                    and not self._is_from_input(some)
                ):
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
        for each in _documents(value) if depth < _MAX_DEPTH else ():
            yield from _walk(each, (*by_source, _JSON), (*merged, _JSON), depth + 1, seen)
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


def _documents(text: str) -> Iterator[object]:
    """Yield the JSON objects and lists within a text, such as a line of server-sent events."""
    if len(text) > _MAX_DOCUMENT or '"' not in text:
        return
    begin = 0
    for _ in range(_MAX_DOCUMENTS):
        found = _DOCUMENT.search(text, begin)
        if found is None:
            return
        begin = found.end()
        with suppress(ValueError, RecursionError):
            document, begin = _DECODER.raw_decode(text, found.start())
            yield document


def _identifies(value: object) -> bool:
    return isinstance(value, str | int) and value != ""
