"""Read JSON documents, also JSON Web Keys and the environment of containers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from pipelit_agents.credentials.leak_guard.formats.values import At, Found, value_at
from pipelit_agents.credentials.leak_guard.recognition import Level, is_token

__all__ = ["json_document", "of_json"]


class _Pairs(list[tuple[str, object]]):
    """The fields of a JSON object, which may contain a name twice."""


def json_document(text: str) -> object:
    """Return the object, list or text that a JSON document is; None if it isn't one."""
    if text[0] in '{["':
        with suppress(ValueError, RecursionError):
            return json.loads(text, object_pairs_hook=_Pairs)
    return None


def of_json(at: At, document: object) -> Iterator[Found]:
    """Yield the values of a JSON document."""
    # Without recursion: a document may be nested deeper than Python's recursion limit.
    waiting: list[tuple[At, object]] = [(at, document)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, _Pairs):
            waiting += reversed(list(_fields(at, value)))
        elif isinstance(value, list):
            waiting += [(at, each) for each in reversed(value)]
        elif isinstance(value, str):
            yield from value_at(at, value)
        elif type(value) is int and at.level >= Level.LIKELY:
            yield at.part(str(value))


def _fields(at: At, pairs: _Pairs) -> Iterator[tuple[At, object]]:
    names = dict(pairs)
    called = names.get("name", names.get("key"))
    for name, value in pairs:
        if name == "value" and isinstance(called, str) and "kty" not in names:
            # As in a container's environment: {"name": "API_KEY", "value": …}.
            yield at.under(called), value
            continue
        level = None
        if "kty" in names and isinstance(value, str):
            # These fields of a JSON Web Key are private, and all others public (RFC 7518, 6).
            private = name in ("d", "p", "q", "dp", "dq", "qi", "k")
            level = Level.CERTAIN if private else Level.PUBLIC
        elif name in ("data", "stringData") and names.get("kind") == "Secret":
            level = Level.SECRET
        if is_token(name):
            yield at.under(name, Level.CERTAIN), name
        yield at.under(name, level), value
