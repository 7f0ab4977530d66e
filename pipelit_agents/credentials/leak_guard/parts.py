"""Find the parts of a credential that are secrets by themselves, such as the password of a URL.

A credential is often a document: a connection string, a key file, a settings file, a header. A node
may parse it and use only the password, so that part must be searched for too. This module decides
which reader of ``formats`` fits a text, and looks into the values that the reader yields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.connection_strings import EMBEDDED_URL, of_url
from pipelit_agents.credentials.leak_guard.formats.lines import of_line
from pipelit_agents.credentials.leak_guard.formats.pem import of_pem
from pipelit_agents.credentials.leak_guard.formats.settings_files import of_lines
from pipelit_agents.credentials.leak_guard.formats.values import (
    STRUCTURED,
    At,
    Found,
    Inside,
    value_at,
)
from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    SCHEME,
    Level,
    Part,
    as_text,
    decoded,
    is_token,
)

__all__ = ["inner_parts", "parts"]

# Nested documents, such as a URL in a JSON file that is base64 in a YAML file.
_MAX_DEPTH: Final = 5


def parts(secret: str) -> Iterator[Part]:
    """Yield the values within a secret, but not the secret itself.

    Args:
        secret: A credential, or one of its fields.
    """
    bare = secret.strip()
    if bare != secret:
        yield Part("", bare, Level.CERTAIN)
    if len(bare) > 1 and bare[0] in "\"'" and bare[-1] == bare[0] and bare[0] not in bare[1:-1]:
        bare = bare[1:-1]
        yield Part("", bare, Level.CERTAIN)
    yield from _within(At("", Level.UNKNOWN, 0), bare)


def inner_parts(text: str) -> Iterator[Part]:
    """Yield the values within a text that isn't known to be a credential: a setting, a command.

    Args:
        text: The text. Here, ``openai:gpt-4o`` is not interpreted as a login.
    """
    yield from _within(At("", Level.UNKNOWN, 1), text.strip())


def _within(at: At, text: str) -> Iterator[Part]:
    """Yield the values within a text, and the values within these."""
    if at.depth > _MAX_DEPTH or len(text) < MIN_LENGTH:
        return
    for found in _found(at, text):
        if isinstance(found, Inside):
            yield from _within(found.at._replace(depth=at.depth + 1), found.text)
        else:
            yield found


def _found(at: At, text: str) -> Iterator[Found]:
    """Yield the values within a text, depending on its format."""
    if "\n" not in text:
        for raw in decoded(text):
            # Single values are decoded by the search. Here, decoded documents are parsed.
            if STRUCTURED.search(plain := as_text(raw)):
                yield Inside(at, plain.strip())
    if not STRUCTURED.search(text):
        return
    # Key files in environment variables often have escaped newlines.
    whole = text.replace("\\n", "\n") if "-----BEGIN " in text else text
    if whole.startswith("-----BEGIN ") or "\n-----BEGIN " in whole:
        yield from of_pem(whole, at.path or "private key")
    if (document := _json(text)) is not None:
        yield from _of_json(at, document)
    elif "\n" in whole:
        yield from of_lines(at, whole)
    elif SCHEME.match(text) or text.startswith("jdbc:"):
        yield from of_url(at, text)
    else:
        for url in EMBEDDED_URL.findall(text) if "://" in text else ():
            yield from of_url(at._replace(level=Level.PUBLIC), url)
        yield from of_line(at, text)


class _Pairs(list[tuple[str, object]]):
    """The fields of a JSON object, which may contain a name twice."""


def _json(text: str) -> object:
    if text[0] in '{["':
        with suppress(ValueError, RecursionError):
            return json.loads(text, object_pairs_hook=_Pairs)
    return None


def _of_json(at: At, document: object) -> Iterator[Found]:
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
