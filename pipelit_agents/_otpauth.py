"""Read what authenticator apps read: ``otpauth://`` URIs, and exports of Google Authenticator.

Every error is a ``ValueError`` that says what is wrong, and repeats nothing that may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import quote, unquote, unquote_plus, urlencode

__all__ = [
    "Authenticator",
    "ExportedAccount",
    "exported_accounts",
    "is_export",
    "is_otpauth",
    "read_base32",
    "read_otpauth",
]

_SCHEME: Final = "otpauth://"
_EXPORT_SCHEME: Final = "otpauth-migration://"
# Characters. Some apps add the address of an image; an export has up to ten accounts.
_MAX_LENGTH: Final = 16_384
_MAX_LABEL: Final = 149
_MAX_ACCOUNTS: Final = 100
# Bytes. RFC 4226 asks for 16, and large services issue 10: that is their choice. Fewer are the
# beginning of a secret that wasn't copied whole.
_MIN_SECRET: Final = 8
_MAX_SECRET: Final = 512
_MAX_PERIOD: Final = 300
_ALGORITHMS: Final = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
_PARAMETERS: Final = frozenset({"secret", "issuer", "algorithm", "digits", "period", "encoder"})
_SHORT_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,10}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
# Quotes, brackets and invisible characters that a URI was copied with don't make it another text.
_MEANT: Final = re.compile(r"[\W_]*otpauth(-migration)?://", re.IGNORECASE)
_NOT_BASE32: Final = re.compile(r"[^A-Za-z2-7]")
# Characters left over in the last group of 8 for whole bytes, RFC 4648 section 6.
_BASE32_TAILS: Final = frozenset({0, 2, 4, 5, 7})


@dataclass(frozen=True, slots=True)
class Authenticator:
    """One account of an authenticator app: the seed of its codes, and how they are computed.

    Attributes:
        secret: The seed.
        issuer: The service, as the URI names it; may be empty.
        account: The account there, as the URI names it; may be empty.
        digits: The length of a code, 6 to 8.
        period: How long a code is valid, in seconds, 1 to 300.
        algorithm: ``sha1``, ``sha256`` or ``sha512``.
    """

    secret: bytes = field(repr=False)
    issuer: str = ""
    account: str = ""
    digits: int = 6
    period: int = 30
    algorithm: str = "sha1"


class ExportedAccount(NamedTuple):
    """One account of an export.

    Attributes:
        label: The service and the account, such as ``GitHub:alice``.
        uri: Its ``otpauth://`` URI, which has the seed.
    """

    label: str
    uri: str


def is_otpauth(text: str) -> bool:
    """Return whether a text is meant to be the URI or the export of an authenticator app."""
    return _MEANT.match(text) is not None


def is_export(text: str) -> bool:
    """Return whether a text is meant to be an export of Google Authenticator."""
    return text.strip().lower().startswith(_EXPORT_SCHEME)


def read_otpauth(uri: str) -> Authenticator:
    """Read an ``otpauth://totp/…`` URI of any authenticator app.

    Spaces and lower case in the secret, missing padding, a missing issuer, percent-encoding and
    unknown parameters are accepted.

    Raises:
        ValueError: It isn't such a URI, or its codes can't be computed here.
    """
    text = uri.strip()
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"the URI has more than {_MAX_LENGTH:,} characters: copy it again")
    if not text.lower().startswith(_SCHEME):
        raise ValueError(
            "the URI must begin with otpauth://totp/: leave out what was copied before it, such as "
            "a quote or an invisible character"
        )
    if text.lower().count(_SCHEME) > 1:
        raise ValueError("the text has several otpauth:// URIs: store each by a name of its own")
    path, _, query = text[len(_SCHEME) :].partition("?")
    kind, _, label = path.partition("/")
    values = _parameters(query)
    _require_totp(kind, values.get("encoder", ""))
    if not values.get("secret"):
        raise ValueError("the URI has no secret=…: copy it whole, with what follows the '?'")
    prefix, colon, account = unquote(label).partition(":")
    if not colon:
        prefix, account = "", prefix
    return Authenticator(
        read_base32(values["secret"]),
        _shown(values.get("issuer") or prefix),
        _shown(account),
        _number("digits", values.get("digits", ""), 6, range(6, 9)),
        _number("period", values.get("period", ""), 30, range(1, _MAX_PERIOD + 1)),
        _algorithm(values.get("algorithm", "")),
    )


def read_base32(text: str) -> bytes:
    """Read a seed as services display it: Base32, in groups or not, in either case.

    Raises:
        ValueError: It isn't Base32 of 8 to 512 bytes.
    """
    body = re.sub(r"[\s-]", "", text).rstrip("=")
    if bad := _NOT_BASE32.search(body):
        raise ValueError(
            f"the secret isn't Base32: character {bad.start() + 1} of {len(body)} isn't one of A-Z "
            "and 2-7. Copy it again, or pass the whole otpauth:// URI"
        )
    if len(body) % 8 not in _BASE32_TAILS:
        raise ValueError(
            f"the secret isn't Base32: {len(body)} characters don't make whole bytes. Copy it "
            "again, or pass the whole otpauth:// URI"
        )
    raw = base64.b32decode(body + "=" * (-len(body) % 8), casefold=True)
    if not _MIN_SECRET <= len(raw) <= _MAX_SECRET:
        raise ValueError(
            f"the secret must have {_MIN_SECRET} to {_MAX_SECRET} bytes, and has {len(raw)}: copy "
            "it again, or pass the whole otpauth:// URI"
        )
    return raw


def _parameters(query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        # Copied from the source of a page, "&" is "&amp;".
        name = unquote_plus(name).strip().lower().removeprefix("amp;")
        value = unquote_plus(value).strip()
        if name in _PARAMETERS and values.setdefault(name, value) != value:
            raise ValueError(f"the URI has {name}=… twice, with two values: copy it again")
    return values


def _require_totp(kind: str, encoder: str) -> None:
    if encoder and encoder.lower() != "default":
        kind = encoder
    if kind.lower() == "hotp":
        raise ValueError(
            "the type is hotp, whose codes are counted: two users of one counter invalidate each "
            "other's codes. Ask the service for codes that change with the time (totp)"
        )
    if kind.lower() != "totp":
        named = f" {kind}" if _SHORT_WORD.fullmatch(kind) else ""
        raise ValueError(
            f"the type{named} isn't supported: the URI must begin with otpauth://totp/. Codes of "
            "Steam and of other apps of their own are computed in another way"
        )


def _number(name: str, text: str, default: int, allowed: range) -> int:
    if not text:
        return default
    if not _NUMBER.fullmatch(text) or int(text) not in allowed:
        raise ValueError(f"{name} must be a number from {allowed[0]} to {allowed[-1]}")
    return int(text)


def _algorithm(text: str) -> str:
    if not text:
        return "sha1"
    name = re.sub(r"[^A-Z0-9]", "", text.upper()).removeprefix("HMAC")
    if name not in _ALGORITHMS:
        named = f" {text}" if _SHORT_WORD.fullmatch(text) else ""
        raise ValueError(f"the algorithm{named} isn't supported: SHA1, SHA256 and SHA512 are")
    return _ALGORITHMS[name]


def _shown(label: str) -> str:
    printable = "".join(each if each.isprintable() else " " for each in label)
    return " ".join(printable.split())[:_MAX_LABEL]


# Exports of Google Authenticator: a message of Protocol Buffers. Of it, only the fields below are
# read: https://protobuf.dev/programming-guides/encoding/ has the wire format.

_ACCOUNTS: Final = 1
_SECRET, _NAME, _ISSUER, _ALGORITHM, _DIGITS, _TYPE, _COUNTER = range(1, 8)
_EXPORTED_ALGORITHMS: Final = {0: "", 1: "SHA1", 2: "SHA256", 3: "SHA512", 4: "MD5"}
_EXPORTED_DIGITS: Final = {0: "", 1: "6", 2: "8"}
_EXPORTED_TYPES: Final = {1: "hotp", 2: "totp"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT: Final = 10
_DAMAGED: Final = (
    "it isn't an export of Google Authenticator, or is cut off: copy the whole text of the QR code"
)


def exported_accounts(uri: str) -> list[ExportedAccount]:
    """Read an ``otpauth-migration://offline?data=…`` URI.

    Returns:
        The accounts in their order. Accounts with counters, or with an algorithm that isn't
        supported, are among them: ``read_otpauth`` refuses their URIs.

    Raises:
        ValueError: It isn't such a URI, is cut off, or has no account.
    """
    text = uri.strip()
    if not is_export(text) or len(text) > _MAX_LENGTH:
        raise ValueError(_DAMAGED)
    pairs = [pair.partition("=") for pair in text.partition("?")[2].split("&")]
    found = [unquote(value) for name, _, value in pairs if name.lower() == "data"]
    # A form that decoded it once too often has made a space of each plus sign.
    data = (found[0] if found else "").strip().replace(" ", "+").rstrip("=")
    data = data.replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except binascii.Error:
        raise ValueError(_DAMAGED) from None
    accounts = [_account(value) for number, value in _fields(raw) if number == _ACCOUNTS]
    if not 0 < len(accounts) <= _MAX_ACCOUNTS:
        raise ValueError(_DAMAGED)
    return accounts


def _account(message: int | bytes) -> ExportedAccount:
    if not isinstance(message, bytes):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - of the text
    values = dict(_fields(message))
    secret = _bytes(values, _SECRET)
    name, issuer = _text(values, _NAME), _text(values, _ISSUER)
    try:
        kind = _EXPORTED_TYPES[_varint(values, _TYPE)]
        algorithm = _EXPORTED_ALGORITHMS[_varint(values, _ALGORITHM)]
        digits = _EXPORTED_DIGITS[_varint(values, _DIGITS)]
    except KeyError:
        raise ValueError(_DAMAGED) from None
    if not secret:
        raise ValueError(_DAMAGED)
    prefix, colon, account = name.partition(":")
    issuer, account = (issuer or prefix, account) if colon else (issuer, name)
    issuer, account = _shown(issuer), _shown(account)
    parameters = {
        "secret": base64.b32encode(secret).decode("ascii").rstrip("="),
        "issuer": issuer,
        "algorithm": algorithm,
        "digits": digits,
        "counter": str(_varint(values, _COUNTER)) if kind == "hotp" else "",
    }
    query = urlencode({name: value for name, value in parameters.items() if value}, quote_via=quote)
    label = ":".join(filter(None, (issuer, account)))
    shown = ":".join(quote(each) for each in (issuer, account) if each)
    return ExportedAccount(label, f"{_SCHEME}{kind}/{shown}?{query}")


def _bytes(values: dict[int, int | bytes], number: int) -> bytes:
    value = values.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - of the text
    return value


def _text(values: dict[int, int | bytes], number: int) -> str:
    return _bytes(values, number).decode("utf-8", "replace")


def _varint(values: dict[int, int | bytes], number: int) -> int:
    value = values.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - of the text
    return value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbers of a message's fields with their values, and pass over fixed numbers."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, at = _read_varint(message, at)
        if size is None or size > len(message) - at:
            raise ValueError(_DAMAGED)
        if wire == _BYTES:
            yield number, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _MAX_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(_DAMAGED)
