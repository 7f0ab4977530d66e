"""One-time passwords as pure functions of explicit time: RFC 6238 (TOTP) and RFC 6287 (OCRA).

``migration_uris`` reads the accounts that Google Authenticator exports.

This module reads no clock, time zone or setting. Every bad argument raises a `ValueError` that
names the argument; no message contains a secret, a question or a code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, cast

import pyotp
from pydantic import SecretStr

from pipelit_agents._discretion import discreet
from pipelit_agents._otpauth import exported_accounts

__all__ = ["OcraSuite", "migration_uris", "ocra", "ocra_each", "step_at", "totp"]

Algorithm = Literal["sha1", "sha256", "sha512"]
QuestionFormat = Literal["N", "A", "H"]

_DIGESTS: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha512": hashlib.sha512}

# 10000-01-01 UTC, as in pyotp. Milliseconds passed for seconds land beyond it and are refused.
_END_OF_TIME: Final = 253_402_300_800

# The minimum of pyotp 2.12 (NIST SP 800-63B: 112 bits). Older versions don't check it. It is
# checked here, so that the installed version doesn't decide whether a secret is accepted.
_MIN_SECRET_BYTES: Final = 14
_NOT_BASE32: Final = re.compile(r"[^A-Za-z2-7]")
# Characters left over in the last group of 8 for whole bytes, RFC 4648 section 6.
_BASE32_TAILS: Final = frozenset({0, 2, 4, 5, 7})

_QUESTION_BYTES: Final = 128
_FUNCTION: Final = re.compile(r"HOTP-([^-]*)-([^-]*)")
_QUESTION: Final = re.compile(r"Q([NAH])([0-9]{2})")
_TIME: Final = re.compile(r"T([0-9]{1,2})([SMH])")
_TIME_UNITS: Final = {"S": (1, 59), "M": (60, 59), "H": (3600, 48)}
_UNSUPPORTED: Final = {"C": "a counter (C)", "P": "a PIN (P)", "S": "session data (S)"}
# Explicit ASCII: str.isdigit and \d take fullwidth and other digits, and int() would read them.
_CHARACTERS: Final = {
    "N": (re.compile(r"[0-9]+"), "the digits 0-9"),
    "A": (re.compile(r"[0-9A-Za-z]+"), "the characters 0-9, A-Z and a-z"),
    "H": (re.compile(r"[0-9A-Fa-f]+"), "the hex digits 0-9, a-f and A-F"),
}


def step_at(at: float, period: int = 30) -> int:
    """Return the number of the time step that contains a time (RFC 6238 section 4.2, T0 = 0).

    Args:
        at: Unix seconds, int or float.
        period: Length of a step in seconds, 1 or more.

    Returns:
        The number of whole periods since 1970-01-01 UTC.

    Raises:
        ValueError: `at` isn't a number of seconds from 1970 to the year 9999, or `period` isn't a
            positive int.
    """
    # `0 <= at` is false for NaN, so NaN is refused here too.
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < _END_OF_TIME:
        raise ValueError(
            "at must be Unix seconds (int or float) from 0 to the year 9999; pass time.time(), "
            "not a bool, a datetime or milliseconds"
        )
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError("period must be a whole number of seconds, 1 or more (usually 30)")
    # Integers only: true division rounds, and could result in the next step.
    return int(at) // period


@discreet
def totp(
    secret: str | bytes,
    at: float,
    *,
    digits: int = 6,
    period: int = 30,
    algorithm: str = "sha1",
) -> str:
    """Return the plain one-time password for a time (RFC 6238).

    Args:
        secret: The shared secret: base32 text as in an `otpauth://` URI (either case, padding
            optional), or the raw bytes. At least 14 bytes (112 bits).
        at: Unix seconds, int or float.
        digits: Length of the code, 6 to 8.
        period: Length of a time step in seconds, 1 or more.
        algorithm: `sha1`, `sha256` or `sha512`.

    Returns:
        The code, `digits` ASCII digits.

    Raises:
        ValueError: An argument is unusable; the message names it, and never holds the secret.
    """
    if isinstance(digits, bool) or not isinstance(digits, int) or not 6 <= digits <= 8:
        raise ValueError("digits must be 6, 7 or 8")
    if not isinstance(algorithm, str) or algorithm not in _DIGESTS:
        raise ValueError("algorithm must be 'sha1', 'sha256' or 'sha512', in lower case")
    step = step_at(at, period)
    canonical = base64.b32encode(_secret_bytes(secret)).decode("ascii")
    # The step is computed here, because at() and now() of pyotp 2.9 use naive local time and are
    # wrong in the repeated hour at the end of DST. It also allows periods of more than the 120
    # seconds of pyotp 2.12.
    return pyotp.TOTP(canonical, digits=digits, digest=_DIGESTS[algorithm]).generate_otp(step)


def hotp(key: bytes, counter: int, *, digits: int, algorithm: str) -> str:
    """Return the code for a counter (RFC 4226), such as the number of a TOTP step.

    Unlike ``totp``, it takes a key of any length: whether a service's key is long enough is for
    that service to decide.
    """
    return _truncated(hmac.digest(key, counter.to_bytes(8, "big"), algorithm), digits)


@discreet
def migration_uris(uri: str | SecretStr) -> dict[str, SecretStr]:
    """Return the accounts of an export of Google Authenticator, each as an ``otpauth://`` URI.

    The app exports accounts as QR codes ("Transfer accounts"), up to ten in each. The text of such
    a code begins with ``otpauth-migration://offline?data=``.

    Args:
        uri: The text of one QR code.

    Returns:
        The URIs by their labels, such as ``GitHub:alice``. Where several accounts have one label,
        `` (2)`` and so on follows. A URI has the seed of its account: keep it secret.

    Raises:
        ValueError: It isn't such a text, or is cut off. The message doesn't repeat it.

    Example:
        ```python
        uris = migration_uris(exported)
        pipelit.credentials.put(
            "github-login", uris["GitHub:alice"], kind="totp", created_by="alice"
        )
        ```
    """
    text = uri.get_secret_value() if isinstance(uri, SecretStr) else uri
    if not isinstance(text, str):
        raise ValueError("uri must be text (str)")  # noqa: TRY004
    try:
        accounts = exported_accounts(text)
    except ValueError as error:
        raise ValueError(f"uri: {error}") from None
    uris: dict[str, SecretStr] = {}
    for account in accounts:
        label, number = account.label, 1
        while label in uris:
            number += 1
            label = f"{account.label} ({number})"
        uris[label] = SecretStr(account.uri)
    return uris


@dataclass(frozen=True, slots=True)
class OcraSuite:
    """A parsed OCRA suite (RFC 6287 section 6), one-way and without C, P and S.

    Make one with `parse`, which checks it.

    Attributes:
        algorithm: `sha1`, `sha256` or `sha512`.
        digits: Length of the response, 4 to 10; 0 means the untruncated HMAC.
        question_format: `N` (decimal), `A` (alphanumeric) or `H` (hex).
        question_length: Longest question in characters, 4 to 64; for `H`, its exact length.
        time_step: Length of a time step in seconds, or None if the suite has no T.
    """

    algorithm: Algorithm
    digits: int
    question_format: QuestionFormat
    question_length: int
    time_step: int | None

    @classmethod
    def parse(cls, text: str) -> OcraSuite:
        """Parse a suite such as `OCRA-1:HOTP-SHA256-8:QH64-T30S`.

        Args:
            text: The suite, in the RFC's spelling and case.

        Returns:
            The suite; equal texts may give the same object.

        Raises:
            ValueError: A part is malformed or not supported; the message names the part.
        """
        if not isinstance(text, str) or not text.isascii():
            raise ValueError("suite must be ASCII text, such as 'OCRA-1:HOTP-SHA256-8:QH64-T30S'")
        return _parse_suite(text)


@discreet
def ocra(key: bytes, suite: str, question: str, at: float | None = None) -> str:
    """Return the one-way OCRA response to a question (RFC 6287 sections 5 to 7.1).

    The RFC pads the question with zeros on the right and doesn't encode its length, so some
    different questions have the same response. Alphanumeric `"ab"` and `"ab"` plus a NUL would, so
    a NUL is refused. Decimal `"1"` and `"16"` do (hex `1` and `10`), and so do `"1"` and `"01"`. If
    that matters, use a hex question: its length is fixed by the suite, so padding is unambiguous.

    Args:
        key: The shared key, not empty; best as long as the hash (RFC 6238 section 5.1).
        suite: The OCRA suite, such as `OCRA-1:HOTP-SHA256-8:QH64-T30S`; see `OcraSuite`.
        question: The challenge, in the suite's format: 1 to length characters for N (0-9) and A
            (0-9, A-Z, a-z); exactly length hex digits, in either case, for H.
        at: Unix seconds, int or float: required if the suite has T, otherwise refused.

    Returns:
        The response in decimal digits; for 0 digits the whole HMAC in lower-case hex.

    Raises:
        ValueError: An argument is unusable. The message names it, and never contains the key or
            the question.
    """
    if not isinstance(question, str):
        raise ValueError("question must be text (str)")  # noqa: TRY004
    return ocra_each(key, suite, question, [at])[0]


@discreet
def ocra_each(
    key: bytes, suite: str, question: str | bytes, moments: Iterable[float | None]
) -> list[str]:
    """Return the responses to one question at several times.

    Otherwise as `ocra`. A hex question may also be the bytes that its digits represent.
    """
    if not isinstance(key, bytes) or not key:
        raise ValueError("key must be bytes, and not empty")
    parsed = OcraSuite.parse(suite)
    # Section 5.1: DataInput = OCRASuite | 00 | Q | T, without the optional C, P and S.
    data = suite.encode("ascii") + b"\0" + _question_bytes(parsed, question)
    return [_response(key, parsed, data, at) for at in moments]


def _response(key: bytes, suite: OcraSuite, data: bytes, at: float | None) -> str:
    if suite.time_step is not None:
        if at is None:
            raise ValueError("at is required, because the suite has a time step (T)")
        data += step_at(at, suite.time_step).to_bytes(8, "big")
    elif at is not None:
        # If it were ignored, the caller could believe that the response expires.
        raise ValueError("at must be left out, because the suite has no time step (T)")
    mac = hmac.digest(key, data, suite.algorithm)
    return mac.hex() if suite.digits == 0 else _truncated(mac, suite.digits)


def _truncated(mac: bytes, digits: int) -> str:
    # Dynamic truncation, RFC 4226 section 5.3.
    offset = mac[-1] & 0x0F
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFF_FFFF
    return str(number % 10**digits).zfill(digits)


def _secret_bytes(secret: str | bytes) -> bytes:
    """Return the raw bytes of a secret, or raise a `ValueError` that doesn't contain it."""
    if isinstance(secret, str):
        # Parsed strictly here: pyotp's padding and b32decode's errors differ between versions.
        body = secret.rstrip("=")
        if bad := _NOT_BASE32.search(body):
            raise ValueError(
                f"secret isn't base32: character {bad.start() + 1} of {len(secret)} isn't one of "
                "A-Z and 2-7; remove spaces and hyphens, or pass the raw bytes"
            )
        padding = "=" * (-len(body) % 8)
        if len(body) % 8 not in _BASE32_TAILS or secret not in (body, body + padding):
            raise ValueError(
                f"secret isn't base32: {len(body)} characters and {len(secret) - len(body)} of "
                "padding don't make whole bytes; copy it again, or leave the padding out"
            )
        raw = base64.b32decode(body + padding, casefold=True)
    elif isinstance(secret, bytes):
        raw = secret
    else:
        raise ValueError("secret must be base32 text (str) or raw bytes")  # noqa: TRY004
    if len(raw) < _MIN_SECRET_BYTES:
        raise ValueError(
            f"secret must be at least {_MIN_SECRET_BYTES} bytes (112 bits), and this one is "
            f"{len(raw)}; make one with pyotp.random_base32()"
        )
    return raw


def _question_bytes(suite: OcraSuite, question: str | bytes) -> bytes:
    """Return the question as 128 bytes, as the RFC's reference implementation encodes it."""
    form, length = suite.question_format, suite.question_length
    if isinstance(question, bytes):
        if form != "H" or 2 * len(question) != length:
            raise ValueError(
                f"question must be text for this suite (Q{form}{length:02}), or for H exactly half "
                f"as many bytes as digits; these are {len(question)} bytes"
            )
        return question.ljust(_QUESTION_BYTES, b"\0")
    if not isinstance(question, str):
        raise ValueError("question must be text (str)")  # noqa: TRY004
    if form == "H":
        if len(question) != length:
            raise ValueError(
                f"question must be exactly {length} hex digits for this suite (QH{length:02}), and "
                f"has {len(question)}; it is never padded"
            )
    elif not 1 <= len(question) <= length:
        raise ValueError(
            f"question must be 1 to {length} characters for this suite (Q{form}{length:02}), and "
            f"has {len(question)}"
        )
    pattern, allowed = _CHARACTERS[form]
    if not pattern.fullmatch(question):
        raise ValueError(f"question must hold only {allowed} for this suite (Q{form}{length:02})")
    if form == "H":
        raw = bytes.fromhex(question)
    elif form == "A":
        raw = question.encode("ascii")
    else:
        # As in the reference implementation: the number in hex, padded on the right nibble by
        # nibble, so that an odd number of hex digits starts at the high nibble.
        digits = f"{int(question):x}"
        raw = bytes.fromhex(digits + "0" * (len(digits) % 2))
    return raw.ljust(_QUESTION_BYTES, b"\0")


@lru_cache(maxsize=64)
def _parse_suite(text: str) -> OcraSuite:
    """Parse a suite; see `OcraSuite.parse`."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(
            f"suite {text!r} must have three parts, as in 'OCRA-1:HOTP-SHA256-8:QH64-T30S', and "
            f"has {len(parts)}"
        )
    version, function, data_input = parts
    if version != "OCRA-1":
        raise ValueError(f"suite version {version!r} isn't supported; it must be 'OCRA-1'")
    algorithm, digits = _parse_function(function)
    form, length, time_step = _parse_data_input(data_input)
    return OcraSuite(algorithm, digits, form, length, time_step)


def _parse_function(text: str) -> tuple[Algorithm, int]:
    """Parse the CryptoFunction, RFC 6287 section 6.2."""
    match = _FUNCTION.fullmatch(text)
    if not match:
        raise ValueError(f"suite function {text!r} must look like 'HOTP-SHA256-8'")
    algorithm, digits = match.groups()
    if algorithm not in ("SHA1", "SHA256", "SHA512"):
        raise ValueError(f"suite algorithm {algorithm!r} must be SHA1, SHA256 or SHA512")
    # Listed, so that "06" and other alternative spellings of a suite are refused.
    if digits not in ("0", "4", "5", "6", "7", "8", "9", "10"):
        raise ValueError(f"suite digits {digits!r} must be 0 (untruncated) or 4 to 10")
    return cast("Algorithm", algorithm.lower()), int(digits)


def _parse_data_input(text: str) -> tuple[QuestionFormat, int, int | None]:
    """Parse the DataInput, RFC 6287 section 6.3, without C, P and S."""
    fields = text.split("-")
    for field in fields:
        if field[:1] in _UNSUPPORTED:
            raise ValueError(
                f"suite input {field!r}: {_UNSUPPORTED[field[0]]} isn't supported; only a question "
                "(Q) and a time step (T) are"
            )
    match = _QUESTION.fullmatch(fields[0])
    if not match:
        raise ValueError(
            f"suite question {fields[0]!r} must be QN, QA or QH and two digits, such as 'QH64'"
        )
    form, length = cast("QuestionFormat", match[1]), int(match[2])
    if not 4 <= length <= 64:
        raise ValueError(f"suite question {fields[0]!r} must have a length from 04 to 64")
    if form == "H" and length % 2:
        # QH questions have exactly this length here, and half a byte can't be decoded.
        raise ValueError(f"suite question {fields[0]!r} must have an even length for hex")
    if len(fields) > 2:
        raise ValueError(f"suite input {fields[2]!r} can't follow the question and the time step")
    return form, length, _parse_time_step(fields[1]) if len(fields) == 2 else None


def _parse_time_step(text: str) -> int:
    """Parse the time step, such as `T30S`, into seconds."""
    match = _TIME.fullmatch(text)
    if match:
        seconds, most = _TIME_UNITS[match[2]]
        # The RFC's table of hours begins at 0, but a step of length 0 has no number. A leading zero
        # would be another spelling of the same suite, and give a different response.
        if not match[1].startswith("0") and int(match[1]) <= most:
            return int(match[1]) * seconds
    raise ValueError(
        f"suite time step {text!r} must be T1S to T59S, T1M to T59M or T1H to T48H, without a "
        "leading zero"
    )
