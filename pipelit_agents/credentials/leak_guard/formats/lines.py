"""Read one line: a connection string, a query, a header, a cookie, a login, a setting."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from pipelit_agents.credentials.leak_guard.formats.connection_strings import (
    is_keywords,
    is_pairs,
    of_keywords,
    of_pairs,
    of_query,
    of_userinfo,
    without_backslashes,
)
from pipelit_agents.credentials.leak_guard.formats.values import At, Found, value_at
from pipelit_agents.credentials.leak_guard.recognition import (
    SCHEME,
    Level,
    as_text,
    decoded,
    is_wordy,
)

__all__ = ["COOKIE", "assignment", "of_line", "of_quoted", "setting_value"]

_HEADER: Final = re.compile(
    r"\b(bearer|basic|token|api-?key|negotiate) +(?:token=)?\"?([\w.~+/=:-]{8,})", re.IGNORECASE
)
COOKIE: Final = re.compile(r"(?:set-)?cookie:", re.IGNORECASE)
_QUERY: Final = re.compile(r"\??[\w.$-]+=[^\s&]*(?:&[\w.$-]+=[^\s&]*)+")
_ATTRIBUTES: Final = re.compile(r"\b(?:key|name)=\"([^\"]*)\"\s+value=\"([^\"]*)\"")
_ELEMENT: Final = re.compile(r"<([\w.:-]+)[^<>]*>([^<>]+)</")
_QUOTED: Final = re.compile(
    r"([\"']?)\b([A-Za-z_][\w .$-]{0,60})\1\]?\s*(?::|=>?)\s*([\"'])((?:(?!\3)[^\\]|\\.)*)\3"
)
# Flow style of YAML: braces and brackets.
_FLOW: Final = re.compile(r"[{,]\s*([\w.-]+)\s*:\s+([^\s,{}\[\]\"'][^,{}\"']*)")
_LIST: Final = re.compile(r"\[([^\[\]{}\"']+)\]")
# A line of cookies.txt, as written by curl and browsers.
_COOKIES: Final = re.compile(r"(?:[^\t]*\t){5}([^\t]+)\t([^\t]*)")
_NETRC: Final = re.compile(r"\bpassword\s+(?:\"((?:[^\"\\]|\\.)*)\"|(\S+))")
_PGPASS: Final = re.compile(r"\d{1,5}|\*")
_LOGIN: Final = re.compile(r"[\w.@+-]{1,64}:(\S{8,})")
_ADDRESS: Final = re.compile(r"[\w.+%-]*:\S+@[\w.(\[][^\s@]*")
_LOGIN_OF_ORACLE: Final = re.compile(r"[\w$#]+/(\"[^\"]*\"|[^@\s]+)@[\w./:-]+")
_COLON: Final = re.compile(r"(?<!\\):")
_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+)?[\"']?([A-Za-z_/$][\w./:$ -]{0,100}?)[\"']?\s*"
    r"(?:=>|:=|=|:(?=\s|$))(.*)",
    re.DOTALL,
)


def of_line(at: At, text: str) -> Iterator[Found]:
    """Yield the values of one line."""
    fields = _COLON.split(text, maxsplit=4)
    pair = assignment(text)
    likely = at._replace(level=Level.LIKELY)
    if pair is None:
        yield from _of_headers(at, text)
    if row := _COOKIES.fullmatch(text):
        yield from value_at(likely.under(row[1]), row[2])
    elif items := _LIST.fullmatch(text):
        for item in items[1].split(","):
            yield from value_at(at, item.strip())
    elif cookie := COOKIE.match(text):
        yield from of_pairs(likely, text[cookie.end() :])
    elif len(fields) == 5 and at.level < Level.SECRET and _PGPASS.fullmatch(fields[1]):
        # PostgreSQL's password file.
        yield from value_at(at.under("password"), without_backslashes(fields[4]), fields[4])
    elif is_keywords(text):
        yield from of_keywords(at, text)
    elif is_pairs(text):
        yield from of_pairs(at, text)
        yield from of_quoted(at, text)
    elif _QUERY.fullmatch(text):
        yield from of_query(at, text)
    elif re.search(r"\b(?:machine|default)\b", text) and _NETRC.search(text):
        for quoted, bare in _NETRC.findall(text):
            yield from value_at(at.under("password"), _unescaped(quoted) if quoted else bare)
    elif pair is not None:
        yield from value_at(at.under(pair[0]), *setting_value(pair[1]))
        if "<" in text or "{" in text:
            yield from of_quoted(at, text)
    else:
        yield from of_quoted(at, text)
        yield from _of_logins(at, text)


def _of_headers(at: At, text: str) -> Iterator[Found]:
    """Yield the credentials of authorization headers (RFC 9110) anywhere in a text."""
    for scheme, value in _HEADER.findall(text):
        here = at.under(scheme.lower(), Level.LIKELY)
        if not is_wordy(value):
            yield here.part(value)
        for raw in decoded(value) if scheme.lower() == "basic" else ():
            _, colon, password = as_text(raw).partition(":")
            if colon:
                yield from value_at(here.under("password", Level.SECRET), password)


def _of_logins(at: At, text: str) -> Iterator[Found]:
    """Yield ``user:password``, ``user/password@host``, and a URL's userinfo without a scheme."""
    # A whole credential of this form is a login. Elsewhere it may be a host and a port.
    if not Level.PUBLIC < at.level < Level.SECRET:
        return
    if at.depth == 0 and _ADDRESS.fullmatch(text):
        yield from of_userinfo(at, text)
    elif login := _LOGIN.fullmatch(text) or _LOGIN_OF_ORACLE.fullmatch(text):
        part = at.under("password", Level.LIKELY).part(login[1].strip('"'))
        if at.depth == 0 and "@" not in text[: login.start(1)]:
            yield part._replace(level=Level.SECRET)
        elif part.is_searched():
            yield part


def of_quoted(at: At, text: str) -> Iterator[Found]:
    """Yield values of XML elements and attributes, inline tables and incomplete JSON."""
    plain = html.unescape if "<" in text else _unescaped
    for pattern in (_ATTRIBUTES, _ELEMENT) if "<" in text else ():
        for name, value in pattern.findall(text):
            yield from value_at(at.under(name), html.unescape(value))
    for _, name, _, value in _QUOTED.findall(text):
        yield from value_at(at.under(name), plain(value), value)
    for name, value in _FLOW.findall(text) if "{" in text else ():
        yield from value_at(at.under(name), value.strip())


def assignment(line: str) -> tuple[str, str] | None:
    """Return the name and the value of a setting, or None."""
    found = None if SCHEME.match(line) else _ASSIGNMENT.fullmatch(line)
    if found is None:
        return None
    name, value = found[1].rpartition(":")[2].strip(" \"'"), found[2].strip()
    # The padding of base64 is not a setting.
    padding = not value.strip("=") and line.endswith("=") and not is_wordy(name)
    return None if padding or value == "=" else (name, value.rstrip(","))


def setting_value(written: str) -> tuple[str, str]:
    """Return a value of a settings file without quotes and comments, and another reading of it."""
    if len(written) > 1 and written[0] in "\"'":
        inner, end, _ = written[1:].rpartition(written[0])
        if end:
            return _unescaped(inner) if written[0] == '"' else inner.replace("''", "'"), inner
    return re.split(r"\s[#;]", written)[0].strip(), written


def _unescaped(inner: str) -> str:
    """Return what is between double quotes without its escapes."""
    with suppress(ValueError):
        return str(json.loads(f'"{inner}"'))
    return without_backslashes(inner)
