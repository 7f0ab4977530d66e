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
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, unquote_plus

from pipelit_agents.credentials.leak_guard.recognition import (
    MIN_LENGTH,
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

_Parts = Iterator[Part]
_NAME: Final = re.compile(r"[A-Za-z_$][\w$. /-]*")
_STRUCTURED: Final = re.compile(r"[\s:=<{\[/]")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_EMBEDDED_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://[^\s\"'<>`]+")
_AUTHORITY: Final = re.compile(r"[^/?#]*")


def parts(secret: str) -> _Parts:
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
    yield from _parts_within(bare, "", Level.UNKNOWN, 0)


def inner_parts(text: str) -> _Parts:
    """Yield the values within a text that isn't known to be a credential: a setting, a command.

    Args:
        text: The text. Here, ``openai:gpt-4o`` is not interpreted as a login.
    """
    yield from _parts_within(text.strip(), "", Level.UNKNOWN, 1)


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
    names = {each: [path for path in found if found[path] is each] for each in Verdict}
    return Described(
        *(
            tuple(names[each])
            for each in (Verdict.SEARCHED, Verdict.SHORT, Verdict.COMMON, Verdict.PUBLIC)
        )
    )


def _qualified_path(name: str, path: str, fields: Mapping[str, str]) -> str:
    # If the only secret has no name, the names of its parts are enough.
    return (
        path
        if not path or (list(fields) == [DEFAULT_FIELD] and path != DEFAULT_FIELD)
        else f"{name}.{path}"
    )


def _parts_within(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the values within a text, depending on its format."""
    if depth > _MAX_DEPTH or len(text) < MIN_LENGTH:
        return
    if "\n" not in text:
        for raw in decoded(text):
            # Single values are decoded by the search. Here, decoded documents are parsed.
            if _STRUCTURED.search(plain := as_text(raw)):
                yield from _parts_within(plain.strip(), path, level, depth + 1)
    if not _STRUCTURED.search(text):
        return
    # Key files in environment variables often have escaped newlines.
    whole = text.replace("\\n", "\n") if "-----BEGIN " in text else text
    if whole.startswith("-----BEGIN ") or "\n-----BEGIN " in whole:
        yield from _of_pem(whole, path)
    if (document := _json(text)) is not None:
        yield from _of_json(document, path, level, depth)
        return
    if "\n" in whole:
        yield from _of_lines(whole, path, level, depth)
    elif _SCHEME.match(text) or text.startswith("jdbc:"):
        yield from _of_url(text, path, level, depth)
    else:
        for found in _EMBEDDED_URL.findall(text) if "://" in text else ():
            yield from _of_url(found, path, Level.PUBLIC, depth)
        yield from _of_line(text, path, level, depth)


def _leaf(path: str, value: str, level: Level, depth: int) -> _Parts:
    """Yield a value, and the values within it."""
    yield Part(path, value, level)
    yield from _parts_within(value, path, level, depth + 1)


def _with_spellings(part: Part, *others: str) -> _Parts:
    """Yield a value and its other spellings, which are searched for if the value itself is."""
    yield part
    if verdict(part) is Verdict.SEARCHED:
        for each in others:
            if each != part.value:
                yield part._replace(value=each, level=Level.CERTAIN)


def _named(path: str, name: str, value: str, above: Level, depth: int) -> _Parts:
    return _leaf(_under(path, name), value, level_of(name, above), depth)


def _under(path: str, name: str) -> str:
    """Extend a path by a field name; a name that may be a value becomes an asterisk."""
    is_name = len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name) and is_wordy(name)
    return ".".join(each for each in (path, name if is_name else "*") if each)


# JSON


class _Pairs(list[tuple[str, Any]]):
    """The fields of a JSON object, which may contain a name twice."""


def _json(text: str) -> Any:
    if text[0] in '{["':
        with suppress(ValueError, RecursionError):
            return json.loads(text, object_pairs_hook=_Pairs)
    return None


def _of_json(document: Any, path: str, level: Level, depth: int) -> _Parts:
    # Without recursion: a document may be nested deeper than Python's recursion limit.
    waiting: list[tuple[str, Any, Level]] = [(path, document, level)]
    while waiting:
        path, value, level = waiting.pop()
        if isinstance(value, _Pairs):
            waiting += reversed(list(_fields(path, value, level)))
        elif isinstance(value, list):
            waiting += [(path, each, level) for each in reversed(value)]
        elif isinstance(value, str):
            yield from _leaf(path, value, level, depth)
        elif type(value) is int and level >= Level.LIKELY:
            yield Part(path, str(value), level)


def _fields(path: str, pairs: _Pairs, above: Level) -> Iterator[tuple[str, Any, Level]]:
    names = dict(pairs)
    called = names.get("name", names.get("key"))
    for name, value in pairs:
        level = level_of(name, above)
        if "kty" in names and isinstance(value, str):
            # These fields of a JSON Web Key are private, and all others public (RFC 7518, 6).
            private = name in ("d", "p", "q", "dp", "dq", "qi", "k")
            level = Level.CERTAIN if private else Level.PUBLIC
        elif name in ("data", "stringData") and names.get("kind") == "Secret":
            level = Level.SECRET
        elif name == "value" and isinstance(called, str):
            # As in a container's environment: {"name": "API_KEY", "value": …}.
            yield _under(path, called), value, level_of(called, above)
            continue
        if is_token(name):
            yield _under(path, name), name, Level.CERTAIN
        yield _under(path, name), value, level


# PEM


_PEM: Final = re.compile(
    r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----(.*?)-----END \1-----", re.DOTALL
)


def _of_pem(text: str, path: str) -> _Parts:
    """Yield the lines of private keys, their DER, and the number that all formats contain."""
    name = path or "private key"
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
        for raw in (der, number[:16], number[16:32]):
            if raw:
                yield Part(name, raw, Level.CERTAIN)


def _private_number(pem: str, kind: str, der: bytes) -> bytes:
    """Return the private number of a key, in the bytes that all of its formats contain."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if "ENCRYPTED" in kind or "Proc-Type" in pem:
        return b""
    key: Any = None
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


def _of_headers(text: str, path: str, depth: int) -> _Parts:
    """Yield the credentials of authorization headers (RFC 9110) anywhere in a text."""
    for scheme, value in _HEADER.findall(text):
        name = _under(path, scheme.lower())
        if not is_wordy(value):
            yield Part(name, value, Level.LIKELY)
        if scheme.lower() == "basic":
            for raw in decoded(value):
                _, colon, password = as_text(raw).partition(":")
                if colon:
                    yield from _leaf(_under(name, "password"), password, Level.SECRET, depth)


_ORACLE: Final = re.compile(r"jdbc:oracle:\w+:(?:\"[^\"]*\"|[^/\s]*)/(.*)@[^@]*", re.DOTALL)
_TELEGRAM: Final = re.compile(r"bot(\d+:([\w-]{20,}))")


def _of_url(url: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the secrets of a URL: in userinfo, query and fragment, and in a webhook's path."""
    if oracle := _ORACLE.fullmatch(url):
        yield from _password(path, oracle[1].strip('"'), depth)
        return
    scheme, slashes, after = url.partition("://")
    if not slashes:
        yield from _of_pairs(url, path, level, depth)
        return
    yield from _of_userinfo(after, path, depth)
    # Without userinfo, which may contain any of these characters.
    bare = after[_match(_AUTHORITY, after).rfind("@") + 1 :]
    before, question, query = bare.partition("?")
    if ";" in before and "=" in before:
        yield from _of_pairs(url[url.index(";") :], path, level, depth)
        return
    query, _, fragment = (query if question else before).partition("#")
    yield from _of_query(query if question else "", path, depth)
    yield from _of_query(fragment, path, depth)
    if level > Level.PUBLIC and scheme in ("http", "https"):
        for segment in before.partition("#")[0].split("/")[1:]:
            if bot := _TELEGRAM.fullmatch(segment):
                yield Part(_under(path, "path"), bot[1], Level.CERTAIN)
                yield Part(_under(path, "path"), bot[2], Level.CERTAIN)
            elif is_generated(segment) or is_token(segment):
                yield Part(_under(path, "path"), segment, Level.CERTAIN)


# Up to the last @, because an unquoted password may contain any character. A port is no password.
_UNQUOTED: Final = re.compile(r"(?!\[)[^/?#@:]*:(?!\d{1,5}(?:[/?#]|$))(.+)@", re.DOTALL)


def _of_userinfo(after: str, path: str, depth: int) -> _Parts:
    """Yield the password, or the user name if that is a token."""
    userinfo, at, _ = _match(_AUTHORITY, after).rpartition("@")
    user, colon, password = userinfo.partition(":")
    unquoted = _UNQUOTED.match(after)
    if at:
        if colon:
            yield from _password(path, password, depth)
        if verdict(Part("", unquote(password), Level.SECRET)) is not Verdict.SEARCHED:
            yield from _quoted(_under(path, "user"), user, Level.LIKELY)
        if unquoted and unquoted[1] != password:
            yield from _quoted(_under(path, "password up to the last at sign"), unquoted[1])
    elif unquoted:
        yield from _password(path, unquoted[1], depth)


def _password(path: str, value: str, depth: int) -> _Parts:
    path = _under(path, "password")
    yield from _quoted(path, value)
    yield from _parts_within(unquote(value), path, Level.SECRET, depth + 1)


def _quoted(path: str, value: str, level: Level = Level.SECRET) -> _Parts:
    """Yield a value, decoded and as written in the URL."""
    return _with_spellings(Part(path, unquote(value), level), value)


def _of_query(query: str, path: str, depth: int) -> _Parts:
    for field in query.lstrip("?").split("&"):
        name, equals, value = field.partition("=")
        if not equals:
            continue
        name, plain = unquote_plus(name), unquote_plus(value)
        part = Part(_under(path, name), plain, level_of(name))
        yield from _with_spellings(part, value, unquote(value))
        yield from _parts_within(plain, part.path, part.level, depth + 1)


# Lines


_IN_PAIRS: Final = re.compile(
    r"\s*(?:\{((?:[^}]|\}\})*)\}|\"((?:[^\"]|\"\")*)\"|'((?:[^']|'')*)'|([^;]*))(?=\s*(?:;|$))"
)
_NAMED: Final = re.compile(r"\s*[\w .-]+=")
_FLAG: Final = re.compile(r"[\w -]*")


def _is_pairs(text: str) -> bool:
    first, semicolon, rest = text.partition(";")
    if not semicolon or "=" not in text:
        return False
    fields = rest.split(";")
    return any(map(_NAMED.match, fields)) or ("=" in first and all(map(_FLAG.fullmatch, fields)))


def _of_pairs(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the values of ``name=value;`` pairs, as in ADO, ODBC, JDBC, Azure and cookies."""
    start = 0
    while (equals := text.find("=", start)) >= 0:
        name = text[start:equals].rpartition(";")[2]
        found = _IN_PAIRS.match(text, equals + 1)
        if found is None:
            # A quote isn't closed.
            found = re.compile("([^;]*)").match(text, equals + 1)
        start = found.end() if found else len(text)
        kinds = found.groups() if found else ()
        value = next((each for each in kinds if each is not None), "").strip()
        plain = value
        for kind, quote in zip(kinds[:-1], "}\"'", strict=False):
            if kind is not None:
                plain = plain.replace(quote * 2, quote)
        yield from _named_with_spelling(
            path, re.split("[:?]", name)[-1], plain, value, level, depth
        )


_KEYWORD: Final = re.compile(
    r"\s*([A-Za-z_][\w.-]*)\s*=\s*"
    r"(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"|((?:[^\s'\"\\]|\\.)(?:[^\s\\]|\\.)*)|)(?:\s+|,|;|$)",
    re.DOTALL,
)


def _of_keywords(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the values of libpq's ``name=value`` with spaces between, quotes and backslashes."""
    for found in _KEYWORD.finditer(text):
        value = next((each for each in found.groups()[1:] if each is not None), "")
        plain = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        yield from _named_with_spelling(path, found[1], plain, value, level, depth)


def _named_with_spelling(
    path: str, name: str, plain: str, written: str, level: Level, depth: int
) -> _Parts:
    part = Part(_under(path, name.strip()), plain, level_of(name, level))
    yield from _with_spellings(part, written)
    yield from _parts_within(plain, part.path, part.level, depth + 1)


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
_COOKIES: Final = re.compile(r"(?:[^\t]*\t){5}([^\t]+)\t([^\t]*)")
_NETRC: Final = re.compile(r"\bpassword\s+(?:\"((?:[^\"\\]|\\.)*)\"|(\S+))")
_LOGIN: Final = re.compile(r"[\w.@+-]{1,64}:(\S{8,})")
_ADDRESS: Final = re.compile(r"[\w.+%-]*:\S+@[\w.(\[][^\s@]*")
_LOGIN_OF_ORACLE: Final = re.compile(r"[\w$#]+/(\"[^\"]*\"|[^@\s]+)@[\w./:-]+")
_COLON: Final = re.compile(r"(?<!\\):")


def _of_line(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the values of one line: pairs, a query, a login, a setting."""
    fields = _COLON.split(text, maxsplit=4)
    pair = _assignment(text)
    if pair is None:
        yield from _of_headers(text, path, depth)
    if row := _COOKIES.fullmatch(text):
        # A line of cookies.txt, as written by curl and browsers.
        yield from _named(path, row[1], row[2], Level.LIKELY, depth)
    elif items := _LIST.fullmatch(text):
        for item in items[1].split(","):
            yield from _leaf(path, item.strip(), level, depth)
    elif cookie := _match(_COOKIE, text):
        yield from _of_pairs(text[len(cookie) :], path, Level.LIKELY, depth)
    elif len(fields) == 5 and level < Level.SECRET and re.fullmatch(r"\d{1,5}|\*", fields[1]):
        # PostgreSQL's password file.
        plain = re.sub(r"\\(.)", r"\1", fields[4])
        yield from _named_with_spelling(path, "password", plain, fields[4], level, depth)
    elif _is_keywords(text):
        yield from _of_keywords(text, path, level, depth)
    elif _is_pairs(text):
        yield from _of_pairs(text, path, level, depth)
        yield from _of_quoted(text, path, level, depth)
    elif _QUERY.fullmatch(text):
        yield from _of_query(text, path, depth)
    elif re.search(r"\b(?:machine|default)\b", text) and _NETRC.search(text):
        for quoted, bare in _NETRC.findall(text):
            password = _unescaped(quoted) if quoted else bare
            yield from _named(path, "password", password, level, depth)
    elif pair is not None:
        yield from _setting(_under(path, pair[0]), pair[1], level_of(pair[0], level), depth)
        if "<" in text or "{" in text:
            yield from _of_quoted(text, path, level, depth)
    else:
        yield from _of_quoted(text, path, level, depth)
        yield from _of_logins(text, path, level, depth)


def _of_logins(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield ``user:password``, ``user/password@host``, and a URL's userinfo without a scheme."""
    # A whole credential of this form is a login. Elsewhere it may be a host and a port.
    if not Level.PUBLIC < level < Level.SECRET:
        return
    if depth == 0 and _ADDRESS.fullmatch(text):
        yield from _of_userinfo(text, path, depth)
    elif login := _LOGIN.fullmatch(text) or _LOGIN_OF_ORACLE.fullmatch(text):
        part = Part(_under(path, "password"), login[1].strip('"'), Level.LIKELY)
        if depth == 0 and "@" not in text[: login.start(1)]:
            yield part._replace(level=Level.SECRET)
        elif verdict(part) is Verdict.SEARCHED:
            yield part


def _of_quoted(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield values of XML elements and attributes, inline tables and incomplete JSON."""
    if "<" in text:
        for pattern in (_ATTRIBUTES, _ELEMENT):
            for name, value in pattern.findall(text):
                yield from _named(path, name, html.unescape(value), level, depth)
    for _, name, _, value in _QUOTED.findall(text):
        plain = html.unescape(value) if "<" in text else _unescaped(value)
        yield from _named_with_spelling(path, name, plain, value, level, depth)
    for name, value in _FLOW.findall(text) if "{" in text else ():
        yield from _named(path, name, value.strip(), level, depth)


_ASSIGNMENT: Final = re.compile(
    r"(?:export\s+|set\s+)?[\"']?([A-Za-z_/$][\w./:$ -]{0,100}?)[\"']?\s*"
    r"(?:=>|:=|=|:(?=\s|$))(.*)",
    re.DOTALL,
)
_OPENING: Final = ("", "{", "[")


def _assignment(line: str) -> tuple[str, str] | None:
    """Return the name and the value of a setting, or None."""
    found = None if _SCHEME.match(line) else _ASSIGNMENT.fullmatch(line)
    if found is None:
        return None
    name, value = found[1].rpartition(":")[2].strip(" \"'"), found[2].strip()
    # The padding of base64 is not a setting.
    padding = not value.strip("=") and line.endswith("=") and not is_wordy(name)
    return None if padding or value == "=" else (name, value.rstrip(","))


def _setting(path: str, written: str, level: Level, depth: int) -> _Parts:
    plain, other = _setting_value(written)
    yield from _with_spellings(Part(path, plain, level), other)
    yield from _parts_within(plain, path, level, depth + 1)


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


def _of_lines(text: str, path: str, level: Level, depth: int) -> _Parts:
    """Yield the values of settings files (INI, .env, YAML, netrc) and of lines without names."""
    if re.search(r"^\s*(?:machine|default)\s", text, re.MULTILINE):
        yield from _of_line(" ".join(text.split()), path, level, depth)
        return
    if "</" in text or "/>" in text:
        yield from _of_quoted(text, path, level, depth)
        return
    lines = _lines(text)
    kubernetes = (0, "kind: Secret") in lines
    # The enclosing names of a line, by indentation.
    above: list[tuple[int, str, Level]] = [(-1, path, level)]
    called, unnamed, named, skipped = "", list[str](), False, 0
    for number, (indent, line) in enumerate(lines):
        if number < skipped:
            continue
        if line.startswith("[") and line.endswith("]") and line.strip("[]"):
            above, named = [(-1, _under(path, line.strip("[]\"' ")), level)], True
            continue
        while len(above) > 1 and above[-1][0] >= indent:
            above.pop()
        _, outer, outer_level = above[-1]
        item = line.removeprefix("- ").strip()
        pair = None if _is_pairs(item) or _COOKIE.match(item) else _assignment(item)
        if pair is None:
            if item != line:
                yield from _leaf(outer, item.strip("\"'"), outer_level, depth)
            elif _STRUCTURED.search(item):
                yield from _parts_within(item, outer, outer_level, depth + 1)
            if not re.search(r"\s|://", item):
                unnamed.append(item)
            continue
        named = True
        name, value = pair
        found = level_of(name, outer_level)
        if kubernetes and name in ("data", "stringData"):
            found = Level.SECRET
        if name in ("name", "key"):
            called = _setting_value(value)[0]
        elif name == "value" and called:
            name, found, called = called, level_of(called, outer_level), ""
        here = _under(outer, name)
        if re.fullmatch(r"[|>][+-]?\d?", value):
            block = _indented_block(lines[number + 1 :], indent)
            skipped = number + 1 + len(block)
            yield from _leaf(here, "\n".join(block), found, depth)
            yield Part(here, "".join(block), found)
        elif value in _OPENING:
            above.append((indent, here, found))
        else:
            yield from _setting(here, value, found, depth)
    yield from _of_unnamed(unnamed, path, Level.LIKELY if named else Level.SECRET, depth)


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
    found = []
    for inner, line in lines:
        if inner <= indent:
            break
        found.append(line)
    return found


def _of_unnamed(lines: Sequence[str], path: str, level: Level, depth: int) -> _Parts:
    """Yield lines without names: one value that is broken into lines, or one value per line."""
    whole = "".join(lines)
    even = len({len(line) for line in lines[:-1]}) == 1 and len(lines[-1]) <= len(lines[0])
    if even and len(lines[0]) >= 2 * _MIN_LINE and re.fullmatch(r"[\w+/=-]+", whole):
        yield from _leaf(path, whole, Level.CERTAIN, depth)
        for line in lines[:_MAX_LINES]:
            yield Part(path, line, Level.CERTAIN, encodes=False)
        return
    for number, line in enumerate(lines, 1):
        yield Part(_under(path, f"line {number}"), line, level)


def _match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.match(text)
    return found[0] if found else ""
