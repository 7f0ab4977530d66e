"""List the forms of a credential: the spellings of the whole, and of each secret part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.values import STRUCTURED
from pipelit_agents.credentials.leak_guard.parts import parts
from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    Level,
    Part,
    decoded,
    is_wordy,
)
from pipelit_agents.credentials.leak_guard.spellings import base64_of, spellings

__all__ = ["Forms", "searched_parts"]

# Bytes per line of base64: RFC 7468 (PEM) and RFC 2045 (MIME).
_BASE64_LINE_WIDTHS: Final = (48, 57)
# A longer secret is broken across such lines, wherever it begins. So search for two pieces of it:
# one line holds at least one of them. A JWT's signature is long enough for two pieces.
_MAX_UNBROKEN: Final = 42
_PIECE_LENGTH: Final = 20
_MIN_PIECE: Final = 12
# The shortest part of a short secret that is searched for together with the text around it.
_MIN_REST: Final = 4


def searched_parts(secret: str) -> list[Part]:
    """Return the parts of a secret that are secrets by themselves."""
    return [part for part in parts(secret) if part.is_searched()]


class Forms:
    """The forms of a secret and of each of its parts.

    Args:
        secret: The plaintext.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._parts = searched_parts(secret)
        values = {part.value for part in self._parts if isinstance(part.value, str)}
        self._whole = Part("", secret, Level.CERTAIN)
        # A document is searched for by its parts: its beginning and end are the same in others.
        self._documents = {
            value
            for value in (secret, *values)
            if STRUCTURED.search(value) and any(v in value for v in values if v != value)
        }

    def by_part(self) -> Iterator[set[bytes]]:
        """Yield the forms of the secret, then those of each part."""
        yield self._forms_of(self._whole) | set(filter(_is_long_enough, self._across_lines()))
        for part in self._parts:
            yield self._forms_of(part)

    def sought(self) -> Iterator[bytes]:
        """Yield the forms to search for. A document is found by its parts, so it is left out."""
        if self._secret in self._documents and not any(decoded(self._secret)):
            # An encoding of a document encodes its parts too, except for base64 in lines.
            yield from filter(_is_long_enough, self._across_lines())
        else:
            yield from self._forms_of(self._whole)
        for part in self._parts:
            yield from self._forms_of(part)

    def _forms_of(self, part: Part) -> set[bytes]:
        value = part.value
        # A part of a document may begin anywhere in a line.
        broken = len(value) > _MAX_UNBROKEN or self._secret in self._documents
        forms = spellings(value, encodes=part.encodes)
        if broken and value not in self._documents:
            forms.update(base64_of(_pieces(value)))
        return set(filter(_is_long_enough, forms))

    def _across_lines(self) -> Iterator[bytes]:
        """Yield the base64 of lines that contain a part too short to be searched for in pieces."""
        if self._secret not in self._documents:
            return
        plain = self._secret.encode("utf-8", "surrogatepass")
        for part in self._parts:
            value = part.value
            if not isinstance(value, str) or len(value) >= 2 * _MIN_PIECE:
                continue
            raw = value.encode("utf-8", "surrogatepass")
            if (start := plain.find(raw)) < 0:
                continue
            for width in _BASE64_LINE_WIDTHS:
                end = start + len(raw)
                line = (end - 1) // width * width
                if line <= start:
                    continue
                if line - start >= _MIN_REST:
                    yield from base64_of({plain[max(line - width, line - _MAX_UNBROKEN) : line]})
                if end - line >= _MIN_REST:
                    yield from base64_of({plain[line : line + _MAX_UNBROKEN]})


def _pieces(value: str | bytes) -> Iterator[bytes]:
    """Yield two adjacent pieces of a secret that are unlikely to occur elsewhere."""
    text = isinstance(value, str)
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    size = min(_PIECE_LENGTH, len(raw) // 2)
    if size < _MIN_PIECE:
        return
    # Take the end of a token, because its beginning is a common prefix. Take the middle of bytes
    # and of several lines, because their ends are common too.
    start = len(raw) - 2 * size if text and b"\n" not in raw else (len(raw) - 2 * size) // 2
    for piece in (raw[start : start + size], raw[start + size : start + 2 * size]):
        if size == _PIECE_LENGTH or not is_wordy(piece.decode("latin-1")):
            yield piece


def _is_long_enough(form: bytes) -> bool:
    return len(form) >= MIN_LENGTH
