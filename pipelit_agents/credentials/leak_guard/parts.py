"""Find the parts of a credential that are secrets by themselves, such as the password of a URL.

A credential is often a document: a connection string, a key file, a settings file, a header. A node
may parse it and use only the password, so that part must be searched for too.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Final, NamedTuple
from urllib.parse import unquote, unquote_plus

from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
    SCHEME,
    Level,
    Part,
    Verdict,
    as_text,
    decoded,
    is_generated,
    is_token,
    is_wordy,
    level_of,
    verdict,
)

__all__ = ["Described", "described", "inner_parts", "parts"]

# The field name of a credential's only secret.
DEFAULT_FIELD: Final = "value"
_MIN_LINE: Final = 16
_MAX_LINES: Final = 3
# Nested documents, such as a URL in a JSON file that is base64 in a YAML file.
_MAX_DEPTH: Final = 5
_MAX_NAME_LENGTH: Final = 60

_NAME: Final = re.compile(r"[A-Za-z_$][\w$. /-]*")
STRUCTURED: Final = re.compile(r"[\s:=<{\[/]")
_EMBEDDED_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'<>`]+")
_AUTHORITY: Final = re.compile(r"[^/?#]*")


class _At(NamedTuple):
    """Where in a credential a text is, and how likely it is a secret there."""

    path: str
    level: Level
    depth: int

    def under(self, name: str, level: Level | None = None) -> _At:
        """Return where the value of a name is; a name that may be a value becomes an asterisk."""
        name = name.strip()
        is_name = len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name) and is_wordy(name)
        path = ".".join(each for each in (self.path, name if is_name else "*") if each)
        return _At(path, level_of(name, self.level) if level is None else level, self.depth)

    def part(self, value: str | bytes, level: Level | None = None) -> Part:
        """Return a value here as a part of the credential."""
        return Part(self.path, value, self.level if level is None else level)


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
    yield from _within(_At("", Level.UNKNOWN, 0), bare)


def inner_parts(text: str) -> Iterator[Part]:
    """Yield the values within a text that isn't known to be a credential: a setting, a command.

    Args:
        text: The text. Here, ``openai:gpt-4o`` is not interpreted as a login.
    """
    yield from _within(_At("", Level.UNKNOWN, 1), text.strip())


class Described(NamedTuple):
    """The names of a credential's parts, by how the search treats them.

    Attributes:
        searched: Secrets that are searched for.
        short: Secrets that are too short to be searched for.
        common: Secrets that are too common to be searched for.
        public: Parts that aren't known to be secrets.
    """

    searched: tuple[str, ...]
    short: tuple[str, ...]
    common: tuple[str, ...]
    public: tuple[str, ...]


def described(fields: Mapping[str, str]) -> Described:
    """Return the names of the parts that are searched for, and of those that aren't.

    Args:
        fields: The credential's secrets by name.
    """
    found: dict[str, Verdict] = {}
    for name, secret in fields.items():
        # A whole secret is never too common: the user declared it to be a secret.
        whole = Part(name, secret.strip(), Level.CERTAIN)
        inner = [
            part._replace(path=_qualified_path(name, part.path, fields)) for part in parts(secret)
        ]
        for part in (whole, *(part for part in inner if part.path)):
            decided = verdict(part)
            if found.get(part.path) is not Verdict.SEARCHED and part.value:
                found[part.path] = decided
    return Described(*(tuple(path for path in found if found[path] is each) for each in Verdict))


def _qualified_path(name: str, path: str, fields: Mapping[str, str]) -> str:
    # If the only secret has no name, the names of its parts are enough.
    unnamed = list(fields) == [DEFAULT_FIELD] and path != DEFAULT_FIELD
    return path if not path or unnamed else f"{name}.{path}"


def _within(at: _At, text: str) -> Iterator[Part]:
    """Yield the values within a text, depending on its format."""
    if at.depth > _MAX_DEPTH or len(text) < MIN_LENGTH:
        return
    if "\n" not in text:
        for raw in decoded(text):
            # Single values are decoded by the search. Here, decoded documents are parsed.
            if STRUCTURED.search(plain := as_text(raw)):
                yield from _inside(at, plain.strip())
    if not STRUCTURED.search(text):
        return
    # Key files in environment variables often have escaped newlines.
    whole = text.replace("\\n", "\n") if "-----BEGIN " in text else text
    if whole.startswith("-----BEGIN ") or "\n-----BEGIN " in whole:
        yield from _of_pem(whole, at.path or "private key")
    if (document := _json(text)) is not None:
        yield from _of_json(at, document)
    elif "\n" in whole:
        yield from _of_lines(at, whole)
    elif SCHEME.match(text) or text.startswith("jdbc:"):
        yield from _of_url(at, text)
    else:
        for found in _EMBEDDED_URL.findall(text) if "://" in text else ():
            yield from _of_url(at._replace(level=Level.PUBLIC), found)
        yield from _of_line(at, text)


def _inside(at: _At, text: str) -> Iterator[Part]:
    """Yield the values within a value."""
    return _within(at._replace(depth=at.depth + 1), text)


def _value(at: _At, value: str, *spellings: str) -> Iterator[Part]:
    """Yield a value, and the values within it.

    Its other spellings are searched for if the value itself is.
    """
    part = at.part(value)
    yield from _spelled(part, *spellings)
    yield from _inside(at, value)


def _spelled(part: Part, *spellings: str) -> Iterator[Part]:
    yield part
    others = [each for each in spellings if each != part.value]
    if others and verdict(part) is Verdict.SEARCHED:
        yield from (part._replace(value=each, level=Level.CERTAIN) for each in others)


# JSON


class _Pairs(list[tuple[str, object]]):
    """The fields of a JSON object, which may contain a name twice."""


def _json(text: str) -> object:
    if text[0] in '{["':
        with suppress(ValueError, RecursionError):
            return json.loads(text, object_pairs_hook=_Pairs)
    return None


def _of_json(at: _At, document: object) -> Iterator[Part]:
    # Without recursion: a document may be nested deeper than Python's recursion limit.
    waiting: list[tuple[_At, object]] = [(at, document)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, _Pairs):
            waiting += reversed(list(_fields(at, value)))
        elif isinstance(value, list):
            waiting += [(at, each) for each in reversed(value)]
        elif isinstance(value, str):
            yield from _value(at, value)
        elif type(value) is int and at.level >= Level.LIKELY:
            yield at.part(str(value))


def _fields(at: _At, pairs: _Pairs) -> Iterator[tuple[_At, object]]:
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


# PEM


_PEM: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----(.*?)-----END \1-----", re.DOTALL
)


def _of_pem(text: str, name: str) -> Iterator[Part]:
    """Yield the lines of private keys, their DER, and the number that all formats contain."""
    private, taken = False, 0
    for line in map(str.strip, text.splitlines()):
        if line.startswith("-----"):
            private, taken = "PRIVATE" in line and "BEGIN" in line, 0
        elif private and taken < _MAX_LINES and len(line) >= _MIN_LINE and ": " not in line:
            taken += 1
            yield Part(name, line, Level.CERTAIN, encodes=False)
    for found in _PEM.finditer(text) if "-----END " in text else ():
        body = "".join(line for line in found[2].splitlines() if ":" not in line)
        der = b""
        with suppress(ValueError):
            der = base64.b64decode("".join(body.split()), validate=True)
        # Some formats omit leading zeros of a number.
        number = _private_number(found[0], found[1], der).lstrip(b"\0")
        # A line of base64 holds 48 bytes, so its end breaks at most one of the two halves.
        for raw in filter(None, (der, number[:16], number[16:32])):
            yield Part(name, raw, Level.CERTAIN)


def _private_number(pem: str, kind: str, der: bytes) -> bytes:
    """Return the private number of a key, in the bytes that all of its formats contain."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if "ENCRYPTED" in kind or "Proc-Type" in pem:
        return b""
    key: object = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        if kind.startswith("OPENSSH"):
            key = serialization.load_ssh_private_key(pem.encode(), None)
        else:
            key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    if isinstance(key, rsa.RSAPrivateKey):
        number = key.private_numbers().d
        return number.to_bytes((number.bit_length() + 7) // 8)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8)
    return bytes(key.private_bytes_raw()) if hasattr(key, "private_bytes_raw") else b""


# Headers and URLs


_HEADER: Final = re.compile(
    r"\b(bearer|basic|token|api-?key|negotiate) +(?:token=)?\"?([\w.~+/=:-]{8,})", re.IGNORECASE
)


def _of_headers(at: _At, text: str) -> Iterator[Part]:
    """Yield the credentials of authorization headers (RFC 9110) anywhere in a text."""
    for scheme, value in _HEADER.findall(text):
        here = at.under(scheme.lower(), Level.LIKELY)
        if not is_wordy(value):
            yield here.part(value)
        for raw in decoded(value) if scheme.lower() == "basic" else ():
            _, colon, password = as_text(raw).partition(":")
            if colon:
                yield from _value(here.under("password", Level.SECRET), password)


_ORACLE: Final = re.compile(r"jdbc:oracle:\w+:(?:\"[^\"]*\"|[^/\s]*)/(.*)@[^@]*", re.DOTALL)
_TELEGRAM: Final = re.compile(r"bot(\d+:([\w-]{20,}))")


def _of_url(at: _At, url: str) -> Iterator[Part]:
    """Yield the secrets of a URL: in userinfo, query and fragment, and in a webhook's path."""
    scheme, slashes, after = url.partition("://")
    if oracle := _ORACLE.fullmatch(url):
        yield from _password(at, oracle[1].strip('"'))
        return
    if not slashes:
        yield from _of_pairs(at, url)
        return
    yield from _of_userinfo(at, after)
    # Without userinfo, which may contain any of these characters.
    bare = after[_match(_AUTHORITY, after).rfind("@") + 1 :]
    before, question, query = bare.partition("?")
    if ";" in before and "=" in before:
        yield from _of_pairs(at, url[url.index(";") :])
        return
    query, _, fragment = (query if question else before).partition("#")
    yield from _of_query(at, query if question else "")
    yield from _of_query(at, fragment)
    if at.level > Level.PUBLIC and scheme in ("http", "https"):
        here = at.under("path", Level.CERTAIN)
        for segment in before.partition("#")[0].split("/")[1:]:
            if bot := _TELEGRAM.fullmatch(segment):
                yield from map(here.part, bot.groups())
            elif is_generated(segment) or is_token(segment):
                yield here.part(segment)


# Up to the last @, because an unquoted password may contain any character. A port is no password.
_UNQUOTED: Final = re.compile(r"(?!\[)[^/?#@:]*:(?!\d{1,5}(?:[/?#]|$))(.+)@", re.DOTALL)


def _of_userinfo(at: _At, after: str) -> Iterator[Part]:
    """Yield the password, or the user name if that is a token."""
    userinfo, found, _ = _match(_AUTHORITY, after).rpartition("@")
    user, colon, password = userinfo.partition(":")
    unquoted = _UNQUOTED.match(after)
    if found:
        if colon:
            yield from _password(at, password)
        if verdict(Part("", unquote(password), Level.SECRET)) is not Verdict.SEARCHED:
            yield from _spelled(at.under("user", Level.LIKELY).part(unquote(user)), user)
        if unquoted and unquoted[1] != password:
            here = at.under("password up to the last at sign", Level.SECRET)
            yield from _spelled(here.part(unquote(unquoted[1])), unquoted[1])
    elif unquoted:
        yield from _password(at, unquoted[1])


def _password(at: _At, value: str) -> Iterator[Part]:
    """Yield a password of a URL, decoded and as written there."""
    return _value(at.under("password", Level.SECRET), unquote(value), value)


def _of_query(at: _At, query: str) -> Iterator[Part]:
    for field in query.lstrip("?").split("&"):
        name, equals, value = field.partition("=")
        if equals:
            here = at._replace(level=Level.UNKNOWN).under(unquote_plus(name))
            yield from _value(here, unquote_plus(value), value, unquote(value))


# Lines


# ``name=value;`` pairs, as in ADO, ODBC, JDBC, Azure and cookies. A quote may not be closed.
_PAIR: Final = re.compile(
    r"(?:^|;)([^;=]*)=\s*(?:"
    r"(?:\{((?:[^}]|\}\})*)\}|\"((?:[^\"]|\"\")*)\"|'((?:[^']|'')*)'|([^;]*))(?=\s*(?:;|$)))"
)
_NAMED: Final = re.compile(r"\s*[\w .-]+=")
_FLAG: Final = re.compile(r"[\w -]*")


def _is_pairs(text: str) -> bool:
    first, semicolon, rest = text.partition(";")
    if not semicolon or "=" not in text:
        return False
    fields = rest.split(";")
    return any(map(_NAMED.match, fields)) or ("=" in first and all(map(_FLAG.fullmatch, fields)))


def _of_pairs(at: _At, text: str) -> Iterator[Part]:
    for name, *kinds in _PAIR.findall(text):
        value = plain = next(filter(None, kinds), "").strip()
        for kind, quote in zip(kinds, "}\"'", strict=False):
            if kind:
                plain = value.replace(quote * 2, quote)
        yield from _value(at.under(re.split("[:?]", name)[-1]), plain, value)


# libpq's ``name=value`` with spaces between, quotes and backslashes.
_KEYWORD: Final = re.compile(
    r"\s*([A-Za-z_][\w.-]*)\s*=\s*"
    r"(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|((?:[^\s'\"\\]|\\.)(?:[^\s\\]|\\.)*)|)(?:\s+|,|;|$)",
    re.DOTALL,
)


def _of_keywords(at: _At, text: str) -> Iterator[Part]:
    for name, *kinds in _KEYWORD.findall(text):
        value = next(filter(None, kinds), "")
        yield from _value(at.under(name), _without_backslashes(value), value)


def _is_keywords(text: str) -> bool:
    position, found = 0, 0
    while position < len(text):
        match = _KEYWORD.match(text, position)
        if match is None or match.end() == position or match[0].rstrip().endswith(";"):
            return False
        position, found = match.end(), found + 1
    return found > 1


_COOKIE: Final = re.compile(r"(?:set-)?cookie:", re.IGNORECASE)
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


def _of_line(at: _At, text: str) -> Iterator[Part]:
    """Yield the values of one line: pairs, a query, a login, a setting."""
    fields = _COLON.split(text, maxsplit=4)
    pair = _assignment(text)
    likely = at._replace(level=Level.LIKELY)
    if pair is None:
        yield from _of_headers(at, text)
    if row := _COOKIES.fullmatch(text):
        yield from _value(likely.under(row[1]), row[2])
    elif items := _LIST.fullmatch(text):
        for item in items[1].split(","):
            yield from _value(at, item.strip())
    elif cookie := _match(_COOKIE, text):
        yield from _of_pairs(likely, text[len(cookie) :])
    elif len(fields) == 5 and at.level < Level.SECRET and _PGPASS.fullmatch(fields[1]):
        # PostgreSQL's password file.
        plain = re.sub(r"\\(.)", r"\1", fields[4])
        yield from _value(at.under("password"), plain, fields[4])
    elif _is_keywords(text):
        yield from _of_keywords(at, text)
    elif _is_pairs(text):
        yield from _of_pairs(at, text)
        yield from _of_quoted(at, text)
    elif _QUERY.fullmatch(text):
        yield from _of_query(at, text)
    elif re.search(r"\b(?:machine|default)\b", text) and _NETRC.search(text):
        for quoted, bare in _NETRC.findall(text):
            yield from _value(at.under("password"), _unescaped(quoted) if quoted else bare)
    elif pair is not None:
        yield from _setting(at.under(pair[0]), pair[1])
        if "<" in text or "{" in text:
            yield from _of_quoted(at, text)
    else:
        yield from _of_quoted(at, text)
        yield from _of_logins(at, text)


def _of_logins(at: _At, text: str) -> Iterator[Part]:
    """Yield ``user:password``, ``user/password@host``, and a URL's userinfo without a scheme."""
    # A whole credential of this form is a login. Elsewhere it may be a host and a port.
    if not Level.PUBLIC < at.level < Level.SECRET:
        return
    if at.depth == 0 and _ADDRESS.fullmatch(text):
        yield from _of_userinfo(at, text)
    elif login := _LOGIN.fullmatch(text) or _LOGIN_OF_ORACLE.fullmatch(text):
        part = at.under("password", Level.LIKELY).part(login[1].strip('"'))
        if at.depth == 0 and "@" not in text[: login.start(1)]:
            yield part._replace(level=Level.SECRET)
        elif verdict(part) is Verdict.SEARCHED:
            yield part


def _of_quoted(at: _At, text: str) -> Iterator[Part]:
    """Yield values of XML elements and attributes, inline tables and incomplete JSON."""
    unescaped = html.unescape if "<" in text else _unescaped
    for pattern in (_ATTRIBUTES, _ELEMENT) if "<" in text else ():
        for name, value in pattern.findall(text):
            yield from _value(at.under(name), html.unescape(value))
    for _, name, _, value in _QUOTED.findall(text):
        yield from _value(at.under(name), unescaped(value), value)
    for name, value in _FLOW.findall(text) if "{" in text else ():
        yield from _value(at.under(name), value.strip())


_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+)?[\"']?([A-Za-z_/$][\w./:$ -]{0,100}?)[\"']?\s*"
    r"(?:=>|:=|=|:(?=\s|$))(.*)",
    re.DOTALL,
)
_OPENING: Final = ("", "{", "[")


def _assignment(line: str) -> tuple[str, str] | None:
    """Return the name and the value of a setting, or None."""
    found = None if SCHEME.match(line) else _ASSIGNMENT.fullmatch(line)
    if found is None:
        return None
    name, value = found[1].rpartition(":")[2].strip(" \"'"), found[2].strip()
    # The padding of base64 is not a setting.
    padding = not value.strip("=") and line.endswith("=") and not is_wordy(name)
    return None if padding or value == "=" else (name, value.rstrip(","))


def _setting(at: _At, written: str) -> Iterator[Part]:
    return _value(at, *_setting_value(written))


def _setting_value(value: str) -> tuple[str, str]:
    """Return a value of a settings file without quotes and comments, and another reading of it."""
    if len(value) > 1 and value[0] in "\"'":
        inner, end, _ = value[1:].rpartition(value[0])
        if end:
            return _unescaped(inner) if value[0] == '"' else inner.replace("''", "'"), inner
    return re.split(r"\s[#;]", value)[0].strip(), value


def _unescaped(inner: str) -> str:
    with suppress(ValueError):
        return str(json.loads(f'"{inner}"'))
    return re.sub(r"\\(.)", r"\1", inner)


def _without_backslashes(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def _of_lines(at: _At, text: str) -> Iterator[Part]:
    """Yield the values of settings files (INI, .env, YAML, netrc) and of lines without names."""
    if re.search(r"^\s*(?:machine|default)\s", text, re.MULTILINE):
        yield from _of_line(at, " ".join(text.split()))
        return
    if "</" in text or "/>" in text:
        yield from _of_quoted(at, text)
        return
    lines = _lines(text)
    kubernetes = (0, "kind: Secret") in lines
    # The enclosing names of a line, by indentation.
    above: list[tuple[int, _At]] = [(-1, at)]
    called, unnamed, named, skipped = "", list[str](), False, 0
    for number, (indent, line) in enumerate(lines):
        if number < skipped:
            continue
        if line.startswith("[") and line.endswith("]") and line.strip("[]"):
            above, named = [(-1, at.under(line.strip("[]\"' "), at.level))], True
            continue
        while len(above) > 1 and above[-1][0] >= indent:
            above.pop()
        outer = above[-1][1]
        item = line.removeprefix("- ").strip()
        pair = None if _is_pairs(item) or _COOKIE.match(item) else _assignment(item)
        if pair is None:
            if item != line:
                yield from _value(outer, item.strip("\"'"))
            elif STRUCTURED.search(item):
                yield from _inside(outer, item)
            if not re.search(r"\s|://", item):
                unnamed.append(item)
            continue
        named = True
        name, value = pair
        here = outer.under(name)
        if kubernetes and name in ("data", "stringData"):
            here = outer.under(name, Level.SECRET)
        if name in ("name", "key"):
            called = _setting_value(value)[0]
        elif name == "value" and called:
            here, called = outer.under(called), ""
        if re.fullmatch(r"[|>][+-]?\d?", value):
            block = _indented_block(lines[number + 1 :], indent)
            skipped = number + 1 + len(block)
            yield from _value(here, "\n".join(block))
            yield here.part("".join(block))
        elif value in _OPENING:
            above.append((indent, here))
        else:
            yield from _setting(here, value)
    yield from _of_unnamed(at._replace(level=Level.LIKELY if named else Level.SECRET), unnamed)


def _lines(text: str) -> list[tuple[int, str]]:
    """Return lines with their indentation, without comments and PEM blocks."""
    found, pem = list[tuple[int, str]](), False
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("-----"):
            pem = bare.startswith("-----BEGIN")
        elif bare and not pem and ("=" in bare or not bare.startswith(("# ", "// ", "; "))):
            # A setting that is commented out may still be a secret.
            bare = bare.lstrip("# ") if bare.startswith("#") else bare
            indent = len(line) - len(line.lstrip())
            found.append((indent + 2 if bare.startswith("- ") else indent, bare))
    return found


def _indented_block(lines: Sequence[tuple[int, str]], indent: int) -> list[str]:
    return [line for _, line in takewhile(lambda each: each[0] > indent, lines)]


def _of_unnamed(at: _At, lines: Sequence[str]) -> Iterator[Part]:
    """Yield lines without names: one value that is broken into lines, or one value per line."""
    whole = "".join(lines)
    even = len({len(line) for line in lines[:-1]}) == 1 and len(lines[-1]) <= len(lines[0])
    if even and len(lines[0]) >= 2 * _MIN_LINE and re.fullmatch(r"[\w+/=-]+", whole):
        yield from _value(at._replace(level=Level.CERTAIN), whole)
        for line in lines[:_MAX_LINES]:
            yield Part(at.path, line, Level.CERTAIN, encodes=False)
        return
    for number, line in enumerate(lines, 1):
        yield at.under(f"line {number}", at.level).part(line)


def _match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.match(text)
    return found[0] if found else ""
