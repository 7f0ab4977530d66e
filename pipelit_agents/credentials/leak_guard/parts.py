"""Find the parts of a credential that are secrets by themselves, such as the password of a URL.

A credential is often a document: a connection string, a key file, a settings file, a header. A node
may parse it and use only the password, so that part must be searched for too. This module decides
which reader of ``formats`` fits a text, and looks into the values that the reader yields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.connection_strings import EMBEDDED_URL, of_url
from pipelit_agents.credentials.leak_guard.formats.json_documents import json_document, of_json
from pipelit_agents.credentials.leak_guard.formats.lines import of_line
from pipelit_agents.credentials.leak_guard.formats.pem import of_pem
from pipelit_agents.credentials.leak_guard.formats.settings_files import of_lines
from pipelit_agents.credentials.leak_guard.formats.values import STRUCTURED, At, Found, Inside
from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    SCHEME,
    Level,
    Part,
    as_text,
    decoded,
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
    if (document := json_document(text)) is not None:
        yield from of_json(at, document)
    elif "\n" in whole:
        yield from of_lines(at, whole)
    elif SCHEME.match(text) or text.startswith("jdbc:"):
        yield from of_url(at, text)
    else:
        for url in EMBEDDED_URL.findall(text) if "://" in text else ():
            yield from of_url(at._replace(level=Level.PUBLIC), url)
        yield from of_line(at, text)
