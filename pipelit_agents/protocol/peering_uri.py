"""Peerings: one domain sends another an agent's secret and id, once, as an ``otpauth://`` URI.

This module reads no clock, database or key store.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from pipelit_agents.protocol.usernames import is_username

__all__ = ["Enrolment", "PeerRelation", "is_relation", "read_uri"]

MIN_SECRET_BYTES: Final = 16
MAX_SECRET_BYTES: Final = 128
_MAX_URI_LENGTH: Final = 2048
_RELATION: Final = re.compile(r"[0-9a-f]{32}\Z")
_BASE32: Final = re.compile(r"[A-Z2-7]+\Z")
_FIXED: Final = {"algorithm": "SHA1", "digits": "6", "period": "30"}
_KNOWN: Final = {"secret", "issuer", "relation", "image", *_FIXED}


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The contents of a peer's URI.

    Attributes:
        secret: The peer's TOTP secret.
        relation: The peering's id, or an empty string.
    """

    secret: bytes = field(repr=False)
    relation: str


@dataclass(frozen=True, slots=True)
class PeerRelation:
    """The peerings by which an agent and a peer prove themselves to each other.

    Attributes:
        domain: The peer's domain.
        theirs: The id of the peering by which the peer proves itself here.
        ours: The id of the peering that this agent issued to that domain, or None.
    """

    domain: str
    theirs: str
    ours: str | None


def is_relation(value: object) -> bool:
    """Return whether this is the id of a peering: 32 lowercase hexadecimal digits."""
    return isinstance(value, str) and _RELATION.match(value) is not None


def read_uri(uri: SecretStr, *, name: str) -> Enrolment:
    """Parse an ``otpauth://totp/…`` URI.

    Args:
        uri: The URI that the other domain issued.
        name: The account that it must be for.

    Raises:
        ValueError: It isn't such a URI, or is another account's. The message doesn't quote it.
    """
    found = _read(uri, name)
    # Errors were caught in `_read`, so no traceback has a frame that holds the secret.
    if isinstance(found, str):
        raise ValueError(found)  # noqa: TRY004 - of the URI
    return found


def _read(uri: SecretStr, name: str) -> Enrolment | str:
    text = uri.get_secret_value()
    if len(text) > _MAX_URI_LENGTH or not re.fullmatch(r"[!-~]+", text):
        return (
            "uri: it must be one line of ASCII without spaces, "
            f"{_MAX_URI_LENGTH} characters at most; copy it again"
        )
    try:
        parts = urlsplit(text)
        account = unquote(parts.path, errors="strict").removeprefix("/").rpartition(":")[2]
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        return "uri: it can't be read; it must be otpauth://totp/…?secret=…: copy it again"
    values = dict(pairs)
    if parts.scheme != "otpauth":
        return "uri: the scheme must be otpauth://; enter what users.issue_peering returned"
    if parts.netloc == "hotp":
        return (
            "uri: the type hotp uses counters, and those of two domains diverge; only totp, which "
            "uses the time, is accepted"
        )
    if parts.netloc != "totp":
        return "uri: the type must be totp, as in otpauth://totp/…"
    if parts.fragment or "#" in text:
        return "uri: nothing may follow a '#'; copy it again"
    if account != name:
        return f"uri: the account in its label is {_display(account)}, not {name!r}; enrol that one"
    if len(values) != len(pairs):
        return "uri: it has a parameter twice; each may occur once"
    return _values(values)


def _values(values: dict[str, str]) -> Enrolment | str:
    if not values.keys() <= _KNOWN:
        return f"uri: it has an unknown parameter; known are {', '.join(sorted(_KNOWN))}"
    for parameter, only in _FIXED.items():
        if values.get(parameter, only) != only:
            return f"{parameter}: only {only} is accepted here; leave it out or set it to {only}"
    relation = values.get("relation")
    if relation is not None and not is_relation(relation):
        return "relation: it must be 32 digits 0-9 a-f, or left out; copy the URI again"
    secret = _secret(values.get("secret", ""))
    if secret is None:
        return "secret: it must be base32 (A-Z 2-7), without padding; copy the URI again"
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        return (
            f"secret: it has to have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes (128 bits at "
            f"least), and has {len(secret)}; have the other domain issue another"
        )
    return Enrolment(secret, relation or "")


def _secret(text: str) -> bytes | None:
    if not _BASE32.match(text):
        return None
    try:
        secret = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return None
    # Base32 has several spellings of the same bytes; only the canonical one is accepted.
    return secret if base64.b32encode(secret).decode("ascii").rstrip("=") == text else None


def _display(account: str) -> str:
    # A text that isn't a username may be anything, even the secret.
    return repr(account) if is_username(account) else "no username"
