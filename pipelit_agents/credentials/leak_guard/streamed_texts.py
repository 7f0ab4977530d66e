"""Find the texts in a piece of a stream, each with the path of its field, block and stream."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from json import JSONDecoder
from typing import Final, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation

from pipelit_agents.credentials.leak_guard.stored import stored_children

__all__ = ["Path", "current_source", "texts_by_path"]

# These keys distinguish streams that share one channel.
_IDENTIFYING_KEYS: Final = ("id", "index", "run_id", "message_id", "tool_call_id", "name", "type")
_MAX_DEPTH: Final = 12
# Longer texts aren't parsed as JSON.
_MAX_DOCUMENT: Final = 65_536
_MAX_DOCUMENTS: Final = 64
_KEY: Final = "<key>"
_JSON: Final = "<JSON>"
_DOCUMENT: Final = re.compile(r"[{\[]")
_DECODER: Final = JSONDecoder(strict=False)

Path = tuple[Hashable, ...]


def current_source() -> int:
    """Identify the current task or thread, as the source of what it streams."""
    # Two tasks of a node may write in turns, each the tokens of its own model.
    with suppress(RuntimeError):
        if (task := asyncio.current_task()) is not None:
            return id(task)
    return threading.get_ident()


def texts_by_path(value: object, source: int | None = None) -> dict[Path, str]:
    """Return each text in a streamed value by two paths: with the ids of its stream, and without.

    The blocks of a message are also joined in order of arrival.

    Args:
        value: The piece.
        source: The task or thread that streams it, if several share the stream.
    """
    found: dict[Path, str] = {}
    for at, text in _walk(value, _Paths((source,), ()), 0, set()):
        for path in (("by_source", *at.by_source), ("merged", *at.merged)):
            found[path] = found.get(path, "") + text
    return found


class _Paths(NamedTuple):
    """The paths of a value: with the ids of its stream, and without."""

    by_source: Path
    merged: Path

    def under(self, key: Hashable) -> _Paths:
        """Return the paths of the value under a key."""
        return _Paths((*self.by_source, key), (*self.merged, key))

    def of_stream(self, identity: Hashable) -> _Paths:
        """Return the paths of a value that belongs to a stream with ids."""
        return _Paths((*self.by_source, identity), self.merged)


def _walk(value: object, at: _Paths, depth: int, seen: set[int]) -> Iterator[tuple[_Paths, str]]:
    if isinstance(value, str):
        yield at, value
        for each in _documents(value) if depth < _MAX_DEPTH else ():
            yield from _walk(each, at.under(_JSON), depth + 1, seen)
    elif isinstance(value, bytes | bytearray | memoryview):
        yield at, bytes(value).decode("utf-8", "replace")
    elif value is None or isinstance(value, int | float) or depth > _MAX_DEPTH:
        return
    elif isinstance(value, Generation):
        yield from _walk(getattr(value, "message", value.text), at, depth + 1, seen)
    elif isinstance(value, BaseMessage):
        at = at.of_stream(value.id)
        yield from _walk(value.content, at.under("content"), depth + 1, seen)
        if not isinstance(value.content, str):
            yield at.under("text"), str(value.text)
        for field in ("tool_call_chunks", "additional_kwargs"):
            yield from _walk(getattr(value, field, None), at.under(field), depth + 1, seen)
    elif isinstance(value, Mapping):
        identity = tuple(
            (name, value[name]) for name in _IDENTIFYING_KEYS if _identifies(value.get(name))
        )
        at = at.of_stream(identity)
        for key, each in value.items():
            # All keys share one path, so that a secret in pieces is found in keys too.
            yield from _walk(key, at.under(_KEY), depth + 1, seen)
            if key not in _IDENTIFYING_KEYS or not _identifies(each):
                yield from _walk(each, at.under(key), depth + 1, seen)
    elif isinstance(value, list | tuple):
        if value and all(type(each) is int and 0 <= each < 256 for each in value):
            yield at, bytes(value).decode("utf-8", "replace")
        for index, each in enumerate(value):
            indexed = isinstance(each, Mapping) and "index" in each
            yield from _walk(each, at if indexed else at.of_stream(index), depth + 1, seen)
    elif id(value) not in seen:
        # Objects may refer to each other in a circle: visit each one once.
        seen.add(id(value))
        for name, each in stored_children(value):
            yield from _walk(each, at.under(name), depth + 1, seen)


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
