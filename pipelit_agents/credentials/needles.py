"""What an open secret looks like wherever it may turn up: as it is, encoded, or in parts."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

__all__ = ["Needles"]

# Shorter ones would be found everywhere.
SHORTEST: Final = 8
_SHORTEST_LINE: Final = 16
_LINES: Final = 3
# Within the first line of base64 that is broken into lines.
_HEAD: Final = 42
_SECRET_NAMES: Final = re.compile(r"key|secret|token|pass|pwd|credential|auth", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#@:]*:([^/?#]+)@")
_ESCAPES: Final = re.compile(r"%[0-9A-F]{2}")
# What JSON, URLs, pages and Python all write as it is: of most API keys every character.
_UNCHANGED: Final = re.compile(r"[A-Za-z0-9_.~-]+")


class Needles:
    """What to look for, made once for the secrets that are open.

    Args:
        revealed: Credential names by plaintext. Values shorter than eight characters aren't
            looked for.

    Attributes:
        forms: Credential names by what their secrets look like, as UTF-8.
        texts: The same as text, the longest first.
        names: The credentials, for an error that can't say which.
    """

    __slots__ = (
        "_known",
        "_known_texts",
        "_shortest",
        "_shortest_texts",
        "_sorts",
        "forms",
        "names",
        "texts",
    )

    def __init__(self, revealed: Mapping[str, str]) -> None:
        self.forms: dict[bytes, str] = {}
        # What one part looks like belongs together.
        self._sorts: list[set[bytes]] = []
        self._known: list[bytes] = []
        self._known_texts: list[str] = []
        for secret, name in revealed.items():
            for part in _parts(secret):
                sort = {form for form in _forms(part) if len(form) >= SHORTEST}
                self._sorts.append(sort)
                self.forms.update(dict.fromkeys(sort, name))
        self._prepare()
        self.names = ", ".join(sorted(set(revealed.values())))

    def without(self, known: Set[bytes]) -> Needles:
        """The same without what is known already, in whatever form.

        Args:
            known: Forms that may be shown. With each of them go the other forms of the same
                secret, or of the same part of one.

        Returns:
            Needles that take as long to search with as these.
        """
        left = Needles({})
        gone = {form for sort in self._sorts if sort & known for form in sort}
        left.forms = {form: name for form, name in self.forms.items() if form not in gone}
        left._sorts = [sort - gone for sort in self._sorts]
        left._prepare()
        # How long a search takes doesn't tell what is known.
        left._known = [each for each in self._shortest if each not in left._shortest]
        texts = left._shortest_texts
        left._known_texts = [each for each in self._shortest_texts if each not in texts]
        left.names = self.names
        return left

    def _prepare(self) -> None:
        shown = {form.decode("utf-8", "surrogatepass") for form in self.forms}
        self.texts = sorted(shown, key=len, reverse=True)
        # Where one stands in another, the other needn't be looked for.
        self._shortest_texts: list[str] = []
        for each in reversed(self.texts):
            if not self.within(each):
                self._shortest_texts.append(each)
        self._shortest = [each.encode("utf-8", "surrogatepass") for each in self._shortest_texts]

    def within(self, text: str) -> bool:
        """Whether a text shows one of them."""
        for known in self._known_texts:
            text.count(known)
        return any(each in text for each in self._shortest_texts)

    def inside(self, data: bytes) -> bool:
        """Whether bytes hold one of them."""
        for known in self._known:
            data.count(known)
        return any(each in data for each in self._shortest)

    def mask(self, text: str, mask: str) -> str:
        """A text with each of them replaced."""
        for each in self.texts:
            text = text.replace(each, mask)
        return text


def _parts(secret: str) -> Iterator[str]:
    """A secret as it is used: without its last newline, by lines, or a part of what holds it."""
    yield secret
    if secret != (bare := secret.strip()):
        yield bare
    # PEM keys stand in environment variables with their newlines escaped.
    for whole in {secret, secret.replace("\\n", "\n")}:
        yield from _lines(whole)
    if "://" in bare and (found := _PASSWORD.match(bare)):
        yield from {found[1], unquote(found[1])}
    if bare.startswith(("{", "[")):
        with suppress(ValueError):
            for value in _named_secrets("", json.loads(bare)):
                yield from _parts(value)


def _lines(whole: str) -> Iterator[str]:
    # Of a bundle each block counts for itself, and what isn't private is no secret.
    private, taken = True, 0
    lines = whole.splitlines()
    for line in map(str.strip, lines if len(lines) > 1 else []):
        if line.startswith("-----"):
            private, taken = "PRIVATE" in line or not line.startswith("-----BEGIN"), 0
        elif private and taken < _LINES and len(line) >= _SHORTEST_LINE and ": " not in line:
            taken += 1
            yield line


def _named_secrets(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each, inner in value.items():
            yield from _named_secrets(each, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_secrets(name, inner)
    elif isinstance(value, str) and _SECRET_NAMES.search(name) and "://" not in value:
        yield value


def _forms(secret: str) -> set[bytes]:
    if len(secret) < SHORTEST:
        return set()
    plain = secret.encode("utf-8", "surrogatepass")
    texts = {plain.hex(), plain.hex().upper()}
    if not _UNCHANGED.fullmatch(secret):
        texts |= _written(secret, plain)
    forms = {plain, *(each.encode("utf-8", "surrogatepass") for each in texts)}
    # HTTP's basic authorization is Latin-1 where that will do.
    latin = secret.encode("latin-1", "ignore")
    for part in {plain, plain[:_HEAD], latin if len(latin) == len(secret) else plain}:
        for shift in range(3):
            # What stands before it shifts a value's base64; what both alignments share is looked
            # for.
            encoded = base64.b64encode(bytes(shift) + part).rstrip(b"=")
            whole = encoded[(shift * 8 + 5) // 6 : (len(part) + shift) * 8 // 6]
            forms |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


def _written(secret: str, plain: bytes) -> set[str]:
    """What escaping and quoting make of it."""
    in_json = json.dumps(secret)[1:-1]
    # As Python's libraries write it: requests and httpx, urllib, forms, SQLAlchemy.
    in_urls = {quote(plain, safe=each) for each in ("", "/", " +")} | {quote_plus(plain)}
    # As html, markupsafe and xml.sax write it.
    bare = html.escape(secret, quote=False)
    pages = {bare, html.escape(secret), bare.replace('"', "&quot;")}
    pages |= {each.replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for each in pages}
    return {
        in_json,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(in_json)[1:-1],
        repr(secret)[1:-1],
        repr(plain)[2:-1],
        *pages,
        secret.replace('"', '""'),
        *in_urls,
        *(_ESCAPES.sub(lambda found: found[0].lower(), each) for each in in_urls),
    }
