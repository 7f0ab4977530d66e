"""The forms of a secret to search for: the plaintext, its encodings, and its parts."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import AnyStr, Final
from urllib.parse import quote, quote_plus

from pipelit_agents.credentials.leak_guard.formats.values import STRUCTURED
from pipelit_agents.credentials.leak_guard.parts import parts
from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    Level,
    Part,
    Verdict,
    as_text,
    decoded,
    is_common,
    is_wordy,
    verdict,
)

__all__ = ["MASK", "Patterns"]

# What a secret is replaced by.
MASK: Final = "****"

# Bytes per line of base64: RFC 7468 (PEM) and RFC 2045 (MIME).
_BASE64_LINE_WIDTHS: Final = (48, 57)
# A longer secret is broken across such lines, wherever it begins. So search for two pieces of it:
# one line holds at least one of them. A JWT's signature is long enough for two pieces.
_MAX_UNBROKEN: Final = 42
_PIECE_LENGTH: Final = 20
_MIN_PIECE: Final = 12
# The shortest part of a short secret that is searched for together with the text around it.
_MIN_REST: Final = 4
_MAX_COMPARED: Final = 1000
_ESCAPES: Final = re.compile(r"%[0-9A-F]{2}")
_Escape = Callable[[str], str]
_CODE_POINTS: Final = re.compile(r"\\u[0-9a-f]{4}")
# Characters that JSON, URLs, HTML and Python all write unchanged. Most API keys have no others.
_UNCHANGED: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-]?[0-9a-fA-F]{2})+")
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_BASE32: Final = re.compile(r"(?:[A-Z2-7]{16,}|[a-z2-7]{16,})=*")
# The public beginnings of secrets: a URL's scheme and host, the first line of a PEM file and the
# start of its data, a JWT's header, the prefix of a service's tokens.
_PUBLIC: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9.:-]+/(?:[a-z]+/)*)?"
    r"|-----BEGIN [A-Z0-9 ]+-----\s*(?:M[A-Za-z0-9+/]{50}|b3BlbnNz[A-Za-z0-9+/]{44})?"
    r"|M[HI][A-Z][A-Za-z0-9+/]{48}|b3BlbnNz[A-Za-z0-9+/]{44}"
    r"|eyJ[A-Za-z0-9_-]*\.eyJ"
    r"|A[KS]IA|AIza|(?:Basic|Bearer) "
    r"|(?:[A-Za-z][A-Za-z0-9]{1,6}[_.-]){1,3}"
)
# How many further characters must be right before the guard's behavior confirms a guess; at least
# _MIN_GUESS for short secrets.
_GUESS_LENGTH: Final = 8
_MIN_GUESS: Final = 4
# Characters or bytes that are searched for all forms before the next ones are read from memory.
_CACHED: Final = 2**16


class Patterns:
    """The forms of the open secrets, compiled once.

    Args:
        revealed: Credential names by plaintext. Values shorter than eight characters aren't
            searched for.

    Attributes:
        forms: Credential names by the forms of their secrets, as UTF-8 or as the bytes that a
            secret encodes; longest first.
        texts: The forms as text, longest first.
        names: The names of all credentials, for an error that can't name a single one.
    """

    def __init__(self, revealed: Mapping[str, str]) -> None:
        self.names: str = ", ".join(sorted(set(revealed.values())))
        self._revealed = dict(revealed)
        self._secrets = list(revealed)
        # Known forms are searched for too: the duration must not reveal which forms are known.
        self._known: list[bytes] = []
        self._known_texts: list[str] = []
        sought = {form for secret in revealed for form in _Forms(secret).sought()}
        # A form that contains another one needn't be searched for. With very many forms, finding
        # that out takes longer than searching for all of them.
        few = len(sought) <= _MAX_COMPARED
        self._shortest: list[bytes] = []
        self._shortest_texts: list[str] = []
        ordered = sorted(sought, key=len)
        for text in filter(None, map(_as_text, ordered)):
            if not (few and self.in_text(text)):
                self._shortest_texts.append(text)
                self._shortest.append(text.encode("utf-8", "surrogatepass"))
        for form in ordered:
            if not _as_text(form) and not (few and self.in_bytes(form)):
                self._shortest.append(form)

    # Computed on first use: a node that opens no secret never needs these.

    @cached_property
    def forms(self) -> Mapping[bytes, str]:
        """Credential names by the forms of their secrets; see the class."""
        every = {form: name for name, alike in self._forms_by_secret for form in alike}
        # Mask longer forms first, so that no rest of them is left.
        return {form: every[form] for form in sorted(every, key=len, reverse=True)}

    @cached_property
    def _forms_by_secret(self) -> list[tuple[str, set[bytes]]]:
        """The forms of each secret and of each of its parts, with the credential's name."""
        return [
            (name, forms)
            for secret, name in self._revealed.items()
            for forms in _Forms(secret).by_part()
        ]

    @cached_property
    def texts(self) -> Sequence[str]:
        """The forms as text, longest first."""
        texts = {text for form in self.forms if (text := _as_text(form))}
        return sorted(texts, key=len, reverse=True)

    @cached_property
    def beginnings(self) -> Mapping[str, int]:
        """The forms as text, each with the least length of a beginning that a stream holds back.

        Anything shorter is the public beginning of that kind of secret and a few characters. So
        watching what a stream holds back doesn't reveal a secret character by character.
        """
        known, found = set(self.texts), dict[str, int]()
        for secret in self._secrets:
            for form, least in _beginnings(secret):
                if form in known:
                    found[form] = min(least, found.get(form, least))
        return found

    @property
    def count(self) -> int:
        """The number of texts and byte strings to search for."""
        return len(self._shortest) + len(self._known)

    def without(self, known: Set[bytes]) -> Patterns:
        """Return these patterns without the secrets that are known already.

        Args:
            known: Forms that may be emitted. The other forms of the same secret, or of the same
                part of a secret, are removed with them.

        Returns:
            Patterns whose searches take as long as with these.
        """
        removed = {form for _, alike in self._forms_by_secret if alike & known for form in alike}
        left = Patterns({})
        left.names = self.names
        left._secrets = self._secrets
        left.forms = {form: name for form, name in self.forms.items() if form not in removed}
        lost = [each for each in self._shortest if each in removed]
        # A form that contains a removed form was covered by it, and is now searched for itself. Do
        # the same work if no form was removed, so that the duration doesn't reveal it.
        within = lost or self._shortest[:1]
        found = [form for form in left.forms if any(each in form for each in within)]
        kept = [each for each in self._shortest if each not in removed]
        left._shortest = list(dict.fromkeys(kept + found if lost else kept))
        left._shortest_texts = [text for each in left._shortest if (text := _as_text(each))]
        left._known = lost
        left._known_texts = [text for each in lost if (text := _as_text(each))]
        return left

    def in_text(self, text: str) -> bool:
        """Return whether a text contains one of the secrets."""
        for known in self._known_texts:
            text.count(known)
        return _has_any(text, self._shortest_texts)

    def in_bytes(self, data: bytes) -> bool:
        """Return whether bytes contain one of the secrets."""
        for known in self._known:
            data.count(known)
        return _has_any(data, self._shortest)

    def owner_in(self, text: str | bytes) -> str:
        """Return the name of the credential whose secret is in a text; all names if unclear."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return next((name for form, name in self.forms.items() if form in data), self.names)

    def mask(self, text: str) -> str:
        """Replace each secret in a text by a mask."""
        for each in self.texts:
            text = text.replace(each, MASK)
        return text


def _has_any(text: AnyStr, forms: Sequence[AnyStr]) -> bool:
    if len(text) <= _CACHED:
        return any(each in text for each in forms)
    # Piece by piece, because a large value takes longer to be read than to be searched. A form may
    # begin in a piece and end after it.
    return any(
        text.find(each, start, start + _CACHED + len(each) - 1) >= 0
        for start in range(0, len(text), _CACHED)
        for each in forms
    )


def _searched_parts(secret: str) -> list[Part]:
    """Return the parts of a secret that are secrets by themselves."""
    return [part for part in parts(secret) if verdict(part) is Verdict.SEARCHED]


class _Forms:
    """The forms of a secret and of each of its parts.

    Args:
        secret: The plaintext.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._parts = _searched_parts(secret)
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
        forms = _forms(value, encodes=part.encodes)
        if broken and value not in self._documents:
            forms.update(_base64(_pieces(value)))
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
                    yield from _base64({plain[max(line - width, line - _MAX_UNBROKEN) : line]})
                if end - line >= _MIN_REST:
                    yield from _base64({plain[line : line + _MAX_UNBROKEN]})


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


def _beginnings(secret: str) -> Iterator[tuple[str, int]]:
    """Yield each form of a secret and its parts as text, with the least length held back."""
    found = _searched_parts(secret)
    # The beginning of a document is public, up to its first secret part.
    within = [
        secret.index(each.value)
        for each in found
        if isinstance(each.value, str) and each.value != secret and each.value in secret
    ]
    for part in (Part("", secret, Level.CERTAIN), *found):
        value = part.value
        if isinstance(value, str):
            public = _public_length(value)
            if value == secret and within:
                public = max(public, min(within))
            head: str | bytes = value[: public + _guess_length(len(value) - public)]
        else:
            head = value[: _guess_length(len(value))]
        share = len(head) / max(1, len(value))
        # The form of a beginning is the beginning of the form, except for short beginnings and
        # for decoded secrets.
        heads = [text for each in _forms(head, encodes=False) if (text := _as_text(each))]
        for form in _forms(value, encodes=part.encodes):
            if text := _as_text(form):
                lengths = [len(each) for each in heads if text.startswith(each)]
                least = max(lengths) if lengths else int(len(text) * share + 1)
                yield text, max(_MIN_GUESS, least)


def _public_length(value: str) -> int:
    """Return the length of the public beginning; at most a third of a value that may be words.

    A token's prefix can't be distinguished from the first word of a passphrase.
    """
    found = _PUBLIC.match(value)
    if found is None:
        return 0
    return found.end() if found.end() > _GUESS_LENGTH * 3 else min(found.end(), len(value) // 3)


def _guess_length(rest: int) -> int:
    """Return how many of the remaining characters an attacker must guess at once."""
    return min(_GUESS_LENGTH, max(_MIN_GUESS, rest // 2))


def _is_long_enough(form: bytes) -> bool:
    return len(form) >= MIN_LENGTH


def _as_text(form: bytes) -> str:
    try:
        return form.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""


def _forms(secret: str | bytes, *, encodes: bool = True) -> set[bytes]:
    """Return the encoded, escaped and quoted forms of a secret, and of the bytes it encodes."""
    if len(secret) < MIN_LENGTH:
        return set()
    if isinstance(secret, bytes):
        return _forms_of_bytes(secret)
    plain = secret.encode("utf-8", "surrogatepass")
    texts = _hexadecimal(plain)
    # HTTP basic authorization uses Latin-1 if it can encode the text.
    latin = secret.encode("latin-1", "ignore")
    encoded = {plain, latin if len(latin) == len(secret) else plain}
    if not _UNCHANGED.fullmatch(secret):
        texts |= _escaped(secret, plain)
        # For JSON that is encoded as a whole, such as a request body.
        encoded.add(json.dumps(secret)[1:-1].encode())
    if _HEXADECIMAL.fullmatch(secret):
        texts |= _cases(secret)
    elif _BASE32.fullmatch(secret):
        texts |= {secret.lower(), secret.upper()}
    forms = {plain, *(each.encode("utf-8", "surrogatepass") for each in texts), *_base64(encoded)}
    for raw in decoded(secret) if encodes else ():
        text = as_text(raw)
        if not text:
            forms |= _forms_of_bytes(raw)
        elif not is_common(text):
            forms |= _forms(text, encodes=False)
    return forms


def _forms_of_bytes(raw: bytes) -> set[bytes]:
    """Return the forms of a binary secret."""
    if len(raw) < MIN_LENGTH:
        return set()
    texts = {*_hexadecimal(raw), repr(raw)[2:-1], raw.decode("latin-1")}
    return {raw, *(each.encode() for each in texts), *_base64({raw})}


def _hexadecimal(plain: bytes) -> set[str]:
    bare, pairs = plain.hex(), plain.hex(":")
    return {bare, bare.upper(), pairs, pairs.upper(), plain.hex(" ")}


def _cases(secret: str) -> set[str]:
    """Return hexadecimal text in both cases, and a UUID with and without dashes."""
    bare = re.sub("[:-]", "", secret).lower()
    found = {bare, secret.lower()}
    if _UUID.fullmatch(bare):
        found.add("-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:])))
    return found | {each.upper() for each in found}


def _base64(values: Iterable[bytes]) -> Iterator[bytes]:
    for part in values:
        for shift in range(3):
            # The bytes before a value shift its base64. Yield the characters that depend only on
            # the value.
            encoded = base64.b64encode(bytes(shift) + part).rstrip(b"=")
            whole = encoded[(shift * 8 + 5) // 6 : (len(part) + shift) * 8 // 6]
            yield whole
            yield whole.replace(b"+", b"-").replace(b"/", b"_")


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _python(text: str) -> str:
    return repr(text)[1:-1]


def _python_near_quotes(text: str) -> str:
    # With both kinds of quotes nearby, as in a document.
    return repr("'\"" + text)[4:-1]


def _ascii(text: str) -> str:
    return ascii(text)[1:-1]


def _ascii_near_quotes(text: str) -> str:
    return ascii("'\"" + text)[4:-1]


def _unicode_escaped(text: str) -> str:
    return text.encode("unicode_escape", "surrogatepass").decode("ascii")


def _backslashed(text: str) -> tuple[str, str]:
    # As MySQL and libpq write text between quotes; some drivers escape both kinds.
    single = text.replace("\\", "\\\\").replace("'", "\\'")
    return single, single.replace('"', '\\"')


def _html(text: str) -> str:
    return html.escape(text, quote=False)


def _numeric_quotes(text: str) -> str:
    return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def _replacing(old: str, new: str) -> _Escape:
    return lambda text: text.replace(old, new)


def _quoting(safe: str) -> _Escape:
    return lambda text: quote(text, safe=safe)


_DISPLAYS: Final = (_python, _python_near_quotes, _ascii, _ascii_near_quotes)
_URLS: Final = (_quoting(""), _quoting("/"))
_SHELLS: Final = (_replacing("'", "'\"'\"'"), _replacing("'", "'\\''"))
# Of CSV and SQL, and of shells.
_QUOTES: Final = (_replacing('"', '""'), _replacing("'", "''"), *_SHELLS)
# What JSON contains, and what contains JSON: a URL, HTML, CSV, a shell command, a log.
_WITHIN_JSON: Final = (html.escape, _json, _python, _python_near_quotes, *_SHELLS)
_AROUND_JSON: Final = (
    *(*_URLS, quote_plus, html.escape, _numeric_quotes, _html),
    *(_python, _python_near_quotes, *_QUOTES),
)


def _escaped(secret: str, plain: bytes) -> set[str]:
    """Return the escaped and quoted forms of a secret, also in documents within documents."""
    in_json, in_json_raw = _json(secret), json.dumps(secret, ensure_ascii=False)[1:-1]
    # As written by requests and httpx, urllib, HTML forms and SQLAlchemy.
    in_urls = {quote(plain, safe=each) for each in ("", "/", " +")} | {quote_plus(plain)}
    # As written by html, markupsafe and xml.sax.
    pages = {_html(secret), html.escape(secret), _html(secret).replace('"', "&quot;")}
    pages |= {each.replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for each in pages}
    pages |= {each.replace("&#x27;", "&apos;") for each in pages}
    pages |= {each.encode("ascii", "xmlcharrefreplace").decode() for each in pages}
    return {
        *(in_json, in_json_raw, _json(_json(in_json)), *pages, *in_urls),
        *(escape(secret) for escape in (*_DISPLAYS, *_QUOTES, _unicode_escaped)),
        *(outer(inner(secret)) for outer in _DISPLAYS for inner in _DISPLAYS),
        *(repr(plain)[2:-1], repr(b"'\"" + plain)[5:-1]),
        # ODBC, and drivers of MySQL.
        *(secret.replace("}", "}}"), *_backslashed(secret)),
        # PHP and ujson escape the slash, Go and Flask the characters special to HTML, and Java
        # writes upper-case hexadecimal.
        *(each.replace("/", "\\/") for each in (in_json, in_json_raw)),
        *(_page_escaped(each, "<>&") for each in (in_json, in_json_raw)),
        _page_escaped(in_json, "<>&'"),
        _CODE_POINTS.sub(lambda found: f"\\u{found[0][2:].upper()}", in_json),
        _yaml_escaped(in_json_raw),
        *(_ESCAPES.sub(lambda found: found[0].lower(), each) for each in in_urls),
        *(_json(escape(secret)) for escape in _WITHIN_JSON),
        *(escape(in_json) for escape in _AROUND_JSON),
        *(escape(html.escape(secret)) for escape in _URLS),
        *(quote(each, safe="") for each in in_urls),
    }


def _page_escaped(in_json: str, characters: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c in characters else c for c in in_json)


def _yaml_escaped(in_json: str) -> str:
    def written(found: re.Match[str]) -> str:
        number = ord(found[0])
        if number < 0x100:
            return f"\\x{number:02X}"
        return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"

    return re.sub(r"[^\0-\x7f]", written, in_json)
