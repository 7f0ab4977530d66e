"""Spell a value in the ways in which text and documents write it: encoded, escaped and quoted."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    as_text,
    decoded,
    is_common,
)

__all__ = ["base64_of", "spellings", "text_of", "texts_of"]

_ESCAPES: Final = re.compile(r"%[0-9A-F]{2}")
_Escape = Callable[[str], str]
_CODE_POINTS: Final = re.compile(r"\\u[0-9a-f]{4}")
# Characters that JSON, URLs, HTML and Python all write unchanged. Most API keys have no others.
_UNCHANGED: Final = re.compile(r"[A-Za-z0-9_.~-]+")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{2}(?:[:-]?[0-9a-fA-F]{2})+")
_UUID: Final = re.compile(r"[0-9a-f]{32}")
_BASE32: Final = re.compile(r"(?:[A-Z2-7]{16,}|[a-z2-7]{16,})=*")


def text_of(form: bytes) -> str:
    """Return a form as text; empty if it is none."""
    try:
        return form.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ""


def texts_of(forms: Iterable[bytes]) -> list[str]:
    """Return those of the forms that are text."""
    return [text for form in forms if (text := text_of(form))]


def spellings(secret: str | bytes, *, encodes: bool = True) -> set[bytes]:
    """Return the encoded, escaped and quoted spellings of a secret.

    Args:
        secret: The secret.
        encodes: Whether to add the spellings of the bytes that it encodes.
    """
    if len(secret) < MIN_LENGTH:
        return set()
    if isinstance(secret, bytes):
        return _spellings_of_bytes(secret)
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
    forms = {plain, *(each.encode("utf-8", "surrogatepass") for each in texts), *base64_of(encoded)}
    for raw in decoded(secret) if encodes else ():
        text = as_text(raw)
        if not text:
            forms |= _spellings_of_bytes(raw)
        elif not is_common(text):
            forms |= spellings(text, encodes=False)
    return forms


def _spellings_of_bytes(raw: bytes) -> set[bytes]:
    """Return the spellings of a binary secret."""
    if len(raw) < MIN_LENGTH:
        return set()
    texts = {*_hexadecimal(raw), repr(raw)[2:-1], raw.decode("latin-1")}
    return {raw, *(each.encode() for each in texts), *base64_of({raw})}


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


def base64_of(values: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the base64 of each value, wherever in a longer value it begins."""
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
