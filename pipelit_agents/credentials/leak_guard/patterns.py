"""What an open secret looks like wherever it may turn up: as it is, encoded, or in parts."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Final
from urllib.parse import quote, quote_plus

from pipelit_agents.credentials.leak_guard.parts import parts
from pipelit_agents.credentials.leak_guard.recognition import (
    SHORTEST,
    Level,
    Part,
    Verdict,
    as_text,
    decoded,
    is_common,
    is_wordy,
    verdict,
)

__all__ = ["Patterns"]

# Base64 is broken into lines after so many bytes: RFC 7468 (PEM) and RFC 2045 (MIME).
_LINES: Final = (48, 57)
# A longer secret is broken by that, wherever it begins: so two pieces of it are looked for, of
# which a line holds one. A JWT's signature has two of them.
_LONGEST_UNBROKEN: Final = 42
_PIECE: Final = 20
_SHORTEST_PIECE: Final = 12
# So much of a short secret shows it, where the document around it stands before or after.
_SHORTEST_REST: Final = 4
_FEW: Final = 1000
_ESCAPES: Final = re.compile(r"%[0-9A-F]{2}")
_CODE_POINTS: Final = re.compile(r"\\u[0-9a-f]{4}")
# What JSON, URLs, pages and Python all write as it is: of most API keys every character.
_UNCHANGED: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_STRUCTURED: Final = re.compile(r"[\s:=<{\[/]")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-]?[0-9a-fA-F]{2})+")
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_BASE32: Final = re.compile(r"(?:[A-Z2-7]{16,}|[a-z2-7]{16,})=*")
# How keys of a kind begin, which everybody knows: a scheme with its host, the first line of a PEM
# file and the start of its data, a JWT's header, the prefix of a service's tokens.
_PUBLIC: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9.:-]+/(?:[a-z]+/)*)?"
    r"|-----BEGIN [A-Z0-9 ]+-----\s*(?:M[A-Za-z0-9+/]{50}|b3BlbnNz[A-Za-z0-9+/]{44})?"
    r"|M[HI][A-Z][A-Za-z0-9+/]{48}|b3BlbnNz[A-Za-z0-9+/]{44}"
    r"|eyJ[A-Za-z0-9_-]*\.eyJ"
    r"|A[KS]IA|AIza|(?:Basic|Bearer) "
    r"|(?:[A-Za-z][A-Za-z0-9]{1,6}[_.-]){1,3}"
)
# So many characters beyond that have to be right before anything tells that they are.
_UNGUESSED: Final = 8
_LEAST: Final = 4


class Patterns:
    """What to look for, made once for the secrets that are open.

    Args:
        revealed: Credential names by plaintext. Values shorter than eight characters aren't
            looked for.

    Attributes:
        forms: Credential names by what their secrets look like, as UTF-8 or as the bytes that a
            secret encodes; the longest first.
        texts: The same as text, the longest first.
        names: The credentials, for an error that can't say which.
    """

    __slots__ = (
        "_alike",
        "_beginnings",
        "_forms",
        "_known",
        "_known_texts",
        "_revealed",
        "_shortest",
        "_shortest_texts",
        "_source",
        "_texts",
        "names",
    )

    def __init__(self, revealed: Mapping[str, str]) -> None:
        self._revealed = dict(revealed)
        self._source = self._revealed
        self._beginnings: dict[str, int] | None = None
        self._forms: dict[bytes, str] | None = None
        self._texts: list[str] | None = None
        self._alike: list[tuple[str, set[bytes]]] | None = None
        self._known: list[bytes] = []
        self._known_texts: list[str] = []
        sought = {form for secret in revealed for form in _Forms(secret).sought()}
        texts, rest = list[str](), list[bytes]()
        for form in sorted(sought, key=len):
            if text := _as_text(form):
                texts.append(text)
            else:
                rest.append(form)
        # Where one is within another, the other needn't be looked for. Of very many, finding that
        # out takes longer than looking for all.
        few = len(sought) <= _FEW
        self._shortest_texts: list[str] = []
        for each in texts:
            if not (few and self.within(each)):
                self._shortest_texts.append(each)
        self._shortest = [each.encode("utf-8", "surrogatepass") for each in self._shortest_texts]
        for raw in rest:
            if not (few and self.inside(raw)):
                self._shortest.append(raw)
        self.names = ", ".join(sorted(set(revealed.values())))

    @property
    def forms(self) -> Mapping[bytes, str]:
        """Credential names by what their secrets look like; see the class."""
        # Made when it is needed: a node that opens nothing needs none of it.
        found = self._forms
        if found is None:
            every = {form: name for name, alike in self._made() for form in alike}
            # Masked in this order, so that none leaves the rest of a longer one.
            ordered = sorted(every, key=len, reverse=True)
            found = self._forms = {each: every[each] for each in ordered}
        return found

    def _made(self) -> list[tuple[str, set[bytes]]]:
        """The forms of each secret, and of each part of one, with the credential's name."""
        found = self._alike
        if found is None:
            found = self._alike = [
                (name, forms)
                for secret, name in self._revealed.items()
                for forms in _Forms(secret).of_each()
            ]
        return found

    @property
    def count(self) -> int:
        """How many texts and bytes a search looks for."""
        return len(self._shortest) + len(self._known)

    def without(self, known: Set[bytes]) -> Patterns:
        """Return the same without what is known already, in whatever form.

        Args:
            known: Forms that may be shown. With each of them go the other forms of the same
                secret, or of the same part of one.

        Returns:
            Patterns that take as long to search with as these.
        """
        gone = {form for _, alike in self._made() if alike & known for form in alike}
        left = Patterns({})
        left.names = self.names
        left._source = self._source
        left._forms = {form: name for form, name in self.forms.items() if form not in gone}
        lost = [each for each in self._shortest if each in gone]
        # What was found by a lost form within it has to be looked for itself. The same work is done
        # where none is lost, so that how long it takes doesn't tell whether one is.
        within = lost or self._shortest[:1]
        found = [form for form in left._forms if any(each in form for each in within)]
        kept = [each for each in self._shortest if each not in gone]
        left._shortest = list(dict.fromkeys(kept + found if lost else kept))
        left._shortest_texts = [text for each in left._shortest if (text := _as_text(each))]
        left._known = lost
        left._known_texts = [text for each in lost if (text := _as_text(each))]
        return left

    @property
    def texts(self) -> Sequence[str]:
        """The same as text, the longest first."""
        found = self._texts
        if found is None:
            shown = {text for form in self.forms if (text := _as_text(form))}
            found = self._texts = sorted(shown, key=len, reverse=True)
        return found

    @property
    def beginnings(self) -> Mapping[str, int]:
        """The same, each with the number of characters from which on it is a beginning of one.

        A shorter one is no more than the public beginning of its kind and a few characters: whoever
        sees what a stream keeps back can't find out a secret a character at a time.
        """
        found = self._beginnings
        if found is None:
            known = set(self.texts)
            found = {}
            for secret in self._source:
                for form, least in _beginnings(secret):
                    if form in known:
                        found[form] = min(least, found.get(form, least))
            self._beginnings = found
        return found

    def within(self, text: str) -> bool:
        """Whether a text shows one of them."""
        # How long a search takes doesn't tell what is known.
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


def _searched_parts(secret: str) -> list[Part]:
    """The parts of a secret that are secrets by themselves."""
    return [part for part in parts(secret) if verdict(part) is Verdict.SEARCHED]


class _Forms:
    """What a secret looks like, and each of its parts.

    Args:
        secret: The plaintext.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._parts = _searched_parts(secret)
        values = {part.value for part in self._parts if isinstance(part.value, str)}
        self._whole = Part("", secret, Level.CERTAIN)
        # Of a document its secrets are the pieces: it begins and ends as all of its kind do.
        self._documents = {
            value
            for value in (secret, *values)
            if _STRUCTURED.search(value) and any(v in value for v in values if v != value)
        }

    def of_each(self) -> Iterator[set[bytes]]:
        """Yield the forms of the secret, then those of each part."""
        yield self._of(self._whole) | set(filter(_fits, self._across_lines()))
        for part in self._parts:
            yield self._of(part)

    def sought(self) -> Iterator[bytes]:
        """Yield the forms that show it: where a part shows, the document around it needn't."""
        if self._secret in self._documents and not any(decoded(self._secret)):
            # Whatever rewrites a document rewrites its parts with it, but for base64 in lines.
            yield from filter(_fits, self._across_lines())
        else:
            yield from self._of(self._whole)
        for part in self._parts:
            yield from self._of(part)

    def _of(self, part: Part) -> set[bytes]:
        value = part.value
        # A part of a document may stand anywhere in a line.
        broken = len(value) > _LONGEST_UNBROKEN or self._secret in self._documents
        forms = _forms(value, encodes=part.encodes)
        if broken and value not in self._documents:
            forms.update(_base64(_pieces(value)))
        return set(filter(_fits, forms))

    def _across_lines(self) -> Iterator[bytes]:
        """Base64 of lines of a document that hold a part too short to be found in pieces."""
        if self._secret not in self._documents:
            return
        plain = self._secret.encode("utf-8", "surrogatepass")
        for part in self._parts:
            value = part.value
            if not isinstance(value, str) or len(value) >= 2 * _SHORTEST_PIECE:
                continue
            raw = value.encode("utf-8", "surrogatepass")
            if (start := plain.find(raw)) < 0:
                continue
            for width in _LINES:
                end = start + len(raw)
                line = (end - 1) // width * width
                if line <= start:
                    continue
                if line - start >= _SHORTEST_REST:
                    yield from _base64({plain[max(line - width, line - _LONGEST_UNBROKEN) : line]})
                if end - line >= _SHORTEST_REST:
                    yield from _base64({plain[line : line + _LONGEST_UNBROKEN]})


def _pieces(value: str | bytes) -> Iterator[bytes]:
    """Two pieces of a secret, one beside the other, that only it has."""
    text = isinstance(value, str)
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    size = min(_PIECE, len(raw) // 2)
    if size < _SHORTEST_PIECE:
        return
    # A token begins as others do, and a document of lines or bytes ends so, too.
    start = len(raw) - 2 * size if text and b"\n" not in raw else (len(raw) - 2 * size) // 2
    for piece in (raw[start : start + size], raw[start + size : start + 2 * size]):
        if size == _PIECE or not is_wordy(piece.decode("latin-1")):
            yield piece


def _beginnings(secret: str) -> Iterator[tuple[str, int]]:
    """Each form of a secret and its parts as text, with the least length of a beginning of it."""
    found = _searched_parts(secret)
    # A document's beginning is public up to the first part of it that is secret.
    within = [
        secret.index(each.value)
        for each in found
        if isinstance(each.value, str) and each.value != secret and each.value in secret
    ]
    for part in (Part("", secret, Level.CERTAIN), *found):
        value = part.value
        if isinstance(value, str):
            public = _public(value)
            if value == secret and within:
                public = max(public, min(within))
            head: str | bytes = value[: public + _guessed(len(value) - public)]
        else:
            head = value[: _guessed(len(value))]
        share = len(head) / max(1, len(value))
        # What is written of a beginning is the beginning of what is written, but for short ones
        # and for what a secret encodes.
        heads = [text for each in _forms(head, encodes=False) if (text := _as_text(each))]
        for form in _forms(value, encodes=part.encodes):
            if text := _as_text(form):
                lengths = [len(each) for each in heads if text.startswith(each)]
                least = max(lengths) if lengths else int(len(text) * share + 1)
                yield text, max(_LEAST, least)


def _public(value: str) -> int:
    """How long the beginning is that everybody knows; of what may be words, no more than a third.

    Nobody can tell a token's prefix from the first word of a passphrase.
    """
    found = _PUBLIC.match(value)
    if found is None:
        return 0
    return found.end() if found.end() > _UNGUESSED * 3 else min(found.end(), len(value) // 3)


def _guessed(rest: int) -> int:
    """How many characters of so many somebody has to guess at once: of few, half of them."""
    return min(_UNGUESSED, max(_LEAST, rest // 2))


def _fits(form: bytes) -> bool:
    return len(form) >= SHORTEST


def _as_text(form: bytes) -> str:
    try:
        return form.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""


def _forms(secret: str | bytes, *, encodes: bool = True) -> set[bytes]:
    """What encoding, escaping and quoting make of a secret, and of what it encodes itself."""
    if len(secret) < SHORTEST:
        return set()
    if isinstance(secret, bytes):
        return _of_bytes(secret)
    plain = secret.encode("utf-8", "surrogatepass")
    texts = _hexadecimal(plain)
    # HTTP's basic authorization is Latin-1 where that will do.
    latin = secret.encode("latin-1", "ignore")
    encoded = {plain, latin if len(latin) == len(secret) else plain}
    if not _UNCHANGED.fullmatch(secret):
        texts |= _written(secret, plain)
        # Of JSON that is encoded as a whole, such as the body of a request.
        encoded.add(json.dumps(secret)[1:-1].encode())
    if _HEXADECIMAL.fullmatch(secret):
        texts |= _cases(secret)
    elif _BASE32.fullmatch(secret):
        texts |= {secret.lower(), secret.upper()}
    forms = {plain, *(each.encode("utf-8", "surrogatepass") for each in texts), *_base64(encoded)}
    for raw in decoded(secret) if encodes else ():
        text = as_text(raw)
        if not text:
            forms |= _of_bytes(raw)
        elif not is_common(text):
            forms |= _forms(text, encodes=False)
    return forms


def _of_bytes(raw: bytes) -> set[bytes]:
    """The same of a secret that is binary."""
    if len(raw) < SHORTEST:
        return set()
    texts = {*_hexadecimal(raw), repr(raw)[2:-1], raw.decode("latin-1")}
    return {raw, *(each.encode() for each in texts), *_base64({raw})}


def _hexadecimal(plain: bytes) -> set[str]:
    bare, pairs = plain.hex(), plain.hex(":")
    return {bare, bare.upper(), pairs, pairs.upper(), plain.hex(" ")}


def _cases(secret: str) -> set[str]:
    """Hexadecimal in both cases; a UUID with dashes and without."""
    bare = re.sub("[:-]", "", secret).lower()
    found = {bare, secret.lower()}
    if _UUID.fullmatch(bare):
        found.add("-".join((bare[:8], bare[8:12], bare[12:16], bare[16:20], bare[20:])))
    return found | {each.upper() for each in found}


def _base64(values: Iterable[bytes]) -> Iterator[bytes]:
    for part in values:
        for shift in range(3):
            # What stands before it shifts a value's base64; what both alignments share is looked
            # for.
            encoded = base64.b64encode(bytes(shift) + part).rstrip(b"=")
            whole = encoded[(shift * 8 + 5) // 6 : (len(part) + shift) * 8 // 6]
            yield whole
            yield whole.replace(b"+", b"-").replace(b"/", b"_")


def _written(secret: str, plain: bytes) -> set[str]:
    """What escaping and quoting make of it."""
    in_json = json.dumps(secret)[1:-1]
    as_it_is = json.dumps(secret, ensure_ascii=False)[1:-1]
    # As Python's libraries write it: requests and httpx, urllib, forms, SQLAlchemy.
    in_urls = {quote(plain, safe=each) for each in ("", "/", " +")} | {quote_plus(plain)}
    # As html, markupsafe and xml.sax write it.
    bare = html.escape(secret, quote=False)
    pages = {bare, html.escape(secret), bare.replace('"', "&quot;")}
    pages |= {each.replace("&quot;", "&#34;").replace("&#x27;", "&#39;") for each in pages}
    pages |= {each.encode("ascii", "xmlcharrefreplace").decode() for each in pages}
    return {
        in_json,
        as_it_is,
        json.dumps(in_json)[1:-1],
        # PHP and ujson escape the slash, Go and Flask what a page would read, Java in upper case.
        in_json.replace("/", "\\/"),
        as_it_is.replace("/", "\\/"),
        _for_pages(in_json, "<>&"),
        _for_pages(as_it_is, "<>&"),
        _for_pages(in_json, "<>&'"),
        _CODE_POINTS.sub(lambda found: f"\\u{found[0][2:].upper()}", in_json),
        _in_yaml(as_it_is),
        repr(secret)[1:-1],
        repr(plain)[2:-1],
        # Beside both kinds of quotes, as in a document.
        repr("'\"" + secret)[4:-1],
        repr(b"'\"" + plain)[5:-1],
        *pages,
        # CSV and SQL, ODBC, libpq, a shell.
        secret.replace('"', '""'),
        secret.replace("'", "''"),
        secret.replace("}", "}}"),
        secret.replace("\\", "\\\\").replace("'", "\\'"),
        secret.replace("'", "'\"'\"'"),
        secret.replace("'", "'\\''"),
        *in_urls,
        *_written_twice(in_json, html.escape(secret), in_urls),
        *(
            json.dumps(each)[1:-1]
            for each in (
                repr(secret)[1:-1],
                repr("'\"" + secret)[4:-1],
                secret.replace("'", "'\"'\"'"),
                secret.replace("'", "'\\''"),
            )
        ),
        *(_ESCAPES.sub(lambda found: found[0].lower(), each) for each in in_urls),
    }


def _written_twice(in_json: str, in_html: str, in_urls: Set[str]) -> Iterator[str]:
    """What one encoding makes of the other, where documents are put into documents.

    JSON in a URL, a page, a table, a shell command or a log; a page in JSON; a URL in a URL.
    """
    for safe in ("", "/"):
        yield quote(in_json, safe=safe)
        yield quote(in_html, safe=safe)
    yield quote_plus(in_json)
    yield from (quote(each, safe="") for each in in_urls)
    yield html.escape(in_json)
    yield html.escape(in_json).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    yield html.escape(in_json, quote=False)
    yield json.dumps(in_html)[1:-1]
    yield json.dumps(json.dumps(in_json)[1:-1])[1:-1]
    yield repr(in_json)[1:-1]
    yield repr("'\"" + in_json)[4:-1]
    yield in_json.replace('"', '""')
    yield in_json.replace("'", "''")
    yield in_json.replace("'", "'\"'\"'")
    yield in_json.replace("'", "'\\''")


def _for_pages(in_json: str, characters: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c in characters else c for c in in_json)


def _in_yaml(in_json: str) -> str:
    def written(c: str) -> str:
        if c.isascii():
            return c
        number = ord(c)
        if number < 0x100:
            return f"\\x{number:02X}"
        return f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"

    return "".join(map(written, in_json))
