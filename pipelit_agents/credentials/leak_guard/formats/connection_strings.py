"""Read connection strings: URLs, ``name=value;`` pairs, and the keywords of libpq."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, unquote_plus

from pipelit_agents.credentials.leak_guard.formats.values import At, Found, spelled, value_at
from pipelit_agents.credentials.leak_guard.recognition import Level, Part, is_generated, is_token

__all__ = [
    "EMBEDDED_URL",
    "is_keywords",
    "is_pairs",
    "of_keywords",
    "of_pairs",
    "of_query",
    "of_url",
    "of_userinfo",
    "without_backslashes",
]

EMBEDDED_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'<>`]+")
_ORACLE: Final = re.compile(r"jdbc:oracle:\w+:(?:\"[^\"]*\"|[^/\s]*)/(.*)@[^@]*", re.DOTALL)
_TELEGRAM: Final = re.compile(r"bot(\d+:([\w-]{20,}))")
# Up to the last @, because an unquoted password may contain any character. A port is no password.
_UNQUOTED: Final = re.compile(r"(?!\[)[^/?#@:]*:(?!\d{1,5}(?:[/?#]|$))(.+)@", re.DOTALL)
# ``name=value;`` pairs, as in ADO, ODBC, JDBC, Azure and cookies. A quote may not be closed.
_PAIR: Final = re.compile(
    r"(?:^|;)([^;=]*)=\s*(?:"
    r"(?:\{((?:[^}]|\}\})*)\}|\"((?:[^\"]|\"\")*)\"|'((?:[^']|'')*)'|([^;]*))(?=\s*(?:;|$)))"
)
_NAMED: Final = re.compile(r"\s*[\w .-]+=")
_FLAG: Final = re.compile(r"[\w -]*")
# libpq's ``name=value`` with spaces between, quotes and backslashes.
_KEYWORD: Final = re.compile(
    r"\s*([A-Za-z_][\w.-]*)\s*=\s*"
    r"(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|((?:[^\s'\"\\]|\\.)(?:[^\s\\]|\\.)*)|)(?:\s+|,|;|$)",
    re.DOTALL,
)


def of_url(at: At, url: str) -> Iterator[Found]:
    """Yield the secrets of a URL: in userinfo, query and fragment, and in a webhook's path."""
    scheme, slashes, after = url.partition("://")
    if oracle := _ORACLE.fullmatch(url):
        yield from _password(at, oracle[1].strip('"'))
        return
    if not slashes:
        yield from of_pairs(at, url)
        return
    yield from of_userinfo(at, after)
    # Without userinfo, which may contain any of these characters.
    bare = after[_authority(after).rfind("@") + 1 :]
    before, question, query = bare.partition("?")
    if ";" in before and "=" in before:
        yield from of_pairs(at, url[url.index(";") :])
        return
    query, _, fragment = (query if question else before).partition("#")
    yield from of_query(at, query if question else "")
    yield from of_query(at, fragment)
    if at.level > Level.PUBLIC and scheme in ("http", "https"):
        here = at.under("path", Level.CERTAIN)
        for segment in before.partition("#")[0].split("/")[1:]:
            if bot := _TELEGRAM.fullmatch(segment):
                yield from map(here.part, bot.groups())
            elif is_generated(segment) or is_token(segment):
                yield here.part(segment)


def of_userinfo(at: At, after: str) -> Iterator[Found]:
    """Yield the password, or the user name if that is a token.

    Args:
        at: Where the URL is.
        after: The URL after its scheme.
    """
    userinfo, found, _ = _authority(after).rpartition("@")
    user, colon, password = userinfo.partition(":")
    unquoted = _UNQUOTED.match(after)
    if found:
        if colon:
            yield from _password(at, password)
        if not Part("", unquote(password), Level.SECRET).is_searched():
            yield from spelled(at.under("user", Level.LIKELY).part(unquote(user)), user)
        if unquoted and unquoted[1] != password:
            here = at.under("password up to the last at sign", Level.SECRET)
            yield from spelled(here.part(unquote(unquoted[1])), unquoted[1])
    elif unquoted:
        yield from _password(at, unquoted[1])


def of_query(at: At, query: str) -> Iterator[Found]:
    """Yield the parameters of a query."""
    for field in query.lstrip("?").split("&"):
        name, equals, value = field.partition("=")
        if equals:
            here = at._replace(level=Level.UNKNOWN).under(unquote_plus(name))
            yield from value_at(here, unquote_plus(value), value, unquote(value))


def _authority(after: str) -> str:
    return re.split("[/?#]", after, maxsplit=1)[0]


def _password(at: At, value: str) -> Iterator[Found]:
    """Yield a password of a URL, decoded and as written there."""
    return value_at(at.under("password", Level.SECRET), unquote(value), value)


def is_pairs(text: str) -> bool:
    """Return whether a text consists of ``name=value;`` pairs."""
    first, semicolon, rest = text.partition(";")
    if not semicolon or "=" not in text:
        return False
    fields = rest.split(";")
    return any(map(_NAMED.match, fields)) or ("=" in first and all(map(_FLAG.fullmatch, fields)))


def of_pairs(at: At, text: str) -> Iterator[Found]:
    """Yield the values of ``name=value;`` pairs."""
    for name, *kinds in _PAIR.findall(text):
        value = plain = next(filter(None, kinds), "").strip()
        for kind, quote in zip(kinds, "}\"'", strict=False):
            if kind:
                plain = value.replace(quote * 2, quote)
        yield from value_at(at.under(re.split("[:?]", name)[-1]), plain, value)


def is_keywords(text: str) -> bool:
    """Return whether a text consists of libpq's ``name=value`` pairs."""
    position, found = 0, 0
    while position < len(text):
        match = _KEYWORD.match(text, position)
        if match is None or match.end() == position or match[0].rstrip().endswith(";"):
            return False
        position, found = match.end(), found + 1
    return found > 1


def of_keywords(at: At, text: str) -> Iterator[Found]:
    """Yield the values of libpq's ``name=value`` pairs."""
    for name, *kinds in _KEYWORD.findall(text):
        value = next(filter(None, kinds), "")
        yield from value_at(at.under(name), without_backslashes(value), value)


def without_backslashes(text: str) -> str:
    """Return a text without the backslash before each escaped character."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
