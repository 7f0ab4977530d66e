"""Distinguish secrets from host names, user names and settings.

The words of a field's name decide, and if they leave it open, the form of the value: "password" as
the value of ``auth_method`` is not a secret, and neither is an address under ``token_uri``.
"""

from __future__ import annotations

import base64
import enum
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from pipelit_agents._words import TOKEN

__all__ = [
    "Level",
    "Part",
    "Verdict",
    "as_text",
    "decoded",
    "is_common",
    "is_generated",
    "is_token",
    "is_wordy",
    "level_of",
    "verdict",
]

# Shorter values would be found in almost any text. All lengths are in characters.
MIN_LENGTH: Final = 8
_MIN_ENCODED: Final = 16
# A longer word without separators is a passphrase.
_MAX_WORD: Final = 15
_MAX_NUMBER_DIGITS: Final = 14


class Level(enum.IntEnum):
    """How likely a value is a secret, judged by its name and its path."""

    PUBLIC = 0
    """Not a secret: an address, a user name, an identifier."""
    UNKNOWN = 1
    """A secret if it looks like a generated key."""
    LIKELY = 2
    """A secret unless it is made of ordinary words: ``auth``, ``key``, ``token``."""
    SECRET = 3
    """A secret, which may be too common to be searched for: ``password``, ``api_key``."""
    CERTAIN = 4
    """A secret whatever it looks like."""


class Verdict(enum.Enum):
    """Whether a part of a credential is searched for, and why not."""

    SEARCHED = enum.auto()
    SHORT = enum.auto()
    COMMON = enum.auto()
    PUBLIC = enum.auto()


class Part(NamedTuple):
    """A value within a credential.

    Attributes:
        path: Its path, by the names in the document; empty for the whole. It contains no value.
        value: The value; bytes for a key that the document encodes.
        level: How likely it is a secret, judged by its name and path.
        encodes: Whether to search for the bytes that it encodes, too.
    """

    path: str
    value: str | bytes
    level: Level
    encodes: bool = True

    def is_searched(self) -> bool:
        """Return whether it is searched for."""
        return verdict(self) is Verdict.SEARCHED


def verdict(part: Part) -> Verdict:
    """Decide whether a part is searched for."""
    value, level = part.value, part.level
    if isinstance(value, bytes) or level is Level.CERTAIN:
        secret = True
    elif level is Level.SECRET:
        if _NO_VALUE.fullmatch(value) or _is_reference(value):
            return Verdict.PUBLIC
        if len(value) >= MIN_LENGTH and is_common(value):
            return Verdict.COMMON
        secret = True
    elif level is Level.LIKELY:
        secret = is_token(value) or not (is_wordy(value) or _is_reference(value))
    else:
        secret = is_token(value) or (level is Level.UNKNOWN and is_generated(value))
    if not secret:
        return Verdict.PUBLIC
    return Verdict.SEARCHED if len(value) >= MIN_LENGTH else Verdict.SHORT


_RUN: Final = re.compile(r"[^\W_]+")
_LETTER_CASE_CHANGE: Final = re.compile(r"(?<=[a-z])[A-Z]")
_CHANGE: Final = re.compile(r"(?<=[a-zA-Z])[0-9]|(?<=[0-9])[a-zA-Z]|(?<=[a-z])[A-Z]")
# A word with a number, a number with a unit, or an ISO 8601 time: oauth2, 128k, 01T00.
_NUMBERED: Final = re.compile(
    r"[A-Za-z]{1,10}[0-9]{1,6}|[0-9]{1,4}[A-Za-z]{1,3}|[0-9]{2,8}T[0-9]+Z?"
    r"|v[0-9]+[a-z]+[0-9]*"
)
_UNPRONOUNCEABLE: Final = re.compile(r"[bcdfghjklmnpqrstvwxz]{7}", re.IGNORECASE)
# Words and their separators in names, dates, paths, addresses, models and lists of scopes.
_WORD_CHARACTERS: Final = re.compile(r"[\w\-./:@ ,+*()?&%'\"]*")
_SINGLE_WORD: Final = re.compile(r"[^\W\d_]?[^\W\d_A-Z]+|[A-Z]+")
_LETTERS: Final = re.compile(r"[a-zA-Z]{16}")
_NO_VALUE: Final = re.compile(
    r"(?:none|null|nil|true|false|yes|no|on|off|undefined|unset|disabled|enabled|[*•.…_x\s-]*"
    r"|x-oauth-basic|x-access-token|x-token-auth)",
    re.IGNORECASE,
)
# A variable, a template or a placeholder, which names a secret but contains none.
_PLACEHOLDER: Final = re.compile(
    r"\$\{\w+\}|\$?[A-Z]{2,}[0-9]?(?:_[A-Z]+[0-9]{0,2})+|\{\{[\w .-]+\}\}|<[a-zA-Z _-]+>|%\(\w+\)s"
    r"|\$\{\{[\w .-]+\}\}|env:\w+|projects/[\w./-]+|arn:[\w:./-]+"
)
_CONSTANT: Final = re.compile(
    r"[a-z]{2}(?:-[a-z]+)+-[0-9]|your[-_ ][a-z_ -]*"
    r"|(?:change|replace)[-_ ]?(?:me|it|this)|[a-z_ -]*[-_ ](?:goes|here)[-_ ]?[a-z]*",
    re.IGNORECASE,
)
_DIGIT_SEQUENCES: Final = ("01234567890123456789", "98765432109876543210")
SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def is_token(value: str) -> bool:
    """Return whether a value has the prefix of a well-known kind of token, such as ``ghp_``."""
    found = TOKEN.match(value)
    return bool(found) and (not is_wordy(value) or bool(_LETTERS.search(value)))


def is_wordy(value: str) -> bool:
    """Return whether a value consists of words and numbers: a name, a model, a host, a date."""
    if not _WORD_CHARACTERS.fullmatch(value):
        return bool(_PLACEHOLDER.fullmatch(value))
    numbered, mixed = 0, 0
    for run in _RUN.findall(value):
        if run.isdigit():
            if len(run) > _MAX_NUMBER_DIGITS:
                return False
        elif run.isalpha():
            if not _is_word(run):
                return False
        elif _NUMBERED.fullmatch(run):
            numbered += 1
        elif len(run) <= 4:
            mixed += len(run)
        else:
            return False
    return numbered < 4 and mixed * 2 <= len(value)


def is_generated(value: str) -> bool:
    """Return whether a value looks like a generated key: long, unbroken, letters and digits."""
    if _UUID.fullmatch(value) or SCHEME.match(value):
        return False
    for run in re.findall(r"[\w+/=.-]{20,}", value):
        kinds = sum(bool(re.search(kind, run)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
        if kinds > 1 and len(_CHANGE.findall(run)) * 5 >= len(run):
            return len(max(_RUN.findall(run), key=len)) >= MIN_LENGTH
    return False


def decoded(value: str) -> Iterator[bytes]:
    """Yield the bytes that a value encodes in hexadecimal, base64 or base32, if any.

    Args:
        value: A secret. Ordinary words, and tokens with a prefix such as ``sk-``, encode nothing.
    """
    # The value may be broken into lines, or into groups such as "JBSW Y3DP".
    groups = value.split()
    even = len({len(each) for each in groups[:-1]}) == 1 and len(groups[-1]) <= len(groups[0])
    text = "".join(groups) if even else value
    bare = re.sub(r"[:-]", "", text[2:] if text[:2] in ("0x", "0X") else text)
    if re.fullmatch(r"(?:[0-9a-fA-F]{2}){8,}", bare):
        yield bytes.fromhex(bare)
        return
    if len(text) < _MIN_ENCODED or is_token(text):
        return
    body = text.rstrip("=")
    if re.fullmatch(r"[A-Z2-7]+|[a-z2-7]+", body) and re.search("[2-7]", body):
        # RFC 4648: other lengths don't encode whole bytes.
        if len(body) % 8 in (0, 2, 4, 5, 7):
            yield base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    elif is_wordy(body):
        return
    if re.fullmatch(r"[A-Za-z0-9+/]+|[A-Za-z0-9_-]+", body) and len(body) % 4 != 1:
        url_safe = b"-_" if "-" in body or "_" in body else None
        raw = base64.b64decode(body + "=" * (-len(body) % 4), url_safe)
        # Most tokens could be base64 without padding. Accept only key sizes and text.
        if len(text) > len(body) or len(raw) % 8 == 0 or as_text(raw):
            yield raw


def as_text(raw: bytes) -> str:
    """Decode bytes as text; return an empty string if they aren't printable text."""
    with suppress(UnicodeDecodeError):
        text = raw.decode()
        if "".join(text.split()).isprintable():
            return text
    return ""


def _is_word(run: str) -> bool:
    """Return whether letters look like a word, or like words in camelCase."""
    changes = len(_LETTER_CASE_CHANGE.findall(run))
    longest = max(map(len, _LETTER_CASE_CHANGE.split(run)))
    unbroken = longest <= 24 and not _UNPRONOUNCEABLE.search(run)
    return unbroken and changes * 5 <= max(len(run), 10)


def is_common(value: str) -> bool:
    """Return whether a password may occur in ordinary text: a single word, digits in a row."""
    if TOKEN.match(value):
        return False
    if len(value) <= _MAX_WORD and _SINGLE_WORD.fullmatch(value):
        return not _UNPRONOUNCEABLE.search(value)
    sequence = any(value in row for row in _DIGIT_SEQUENCES)
    return sequence or len(set(value)) < 4 or bool(_CONSTANT.fullmatch(value))


def _is_reference(value: str) -> bool:
    """Return whether a value refers to a secret: a variable, an address, a file."""
    if _PLACEHOLDER.fullmatch(value) or SCHEME.match(value):
        return True
    return value.startswith(("/", "./", "~/")) and "/" in value[2:] and is_wordy(value)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PIECE: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRETS: Final = _words(
    """passcode passwort pwd pass pw mnemonic accesstoken accountkey apitoken authkey authtoken
    dbpass encryptionkey keypass masterkey masterauth passin passkey privatekey refreshtoken
    requirepass seedphrase sharedkey signingkey storepass userpass"""
)
# A "key" after one of these words is a secret.
_SECRET_KEY_KINDS: Final = _words(
    """access account admin api app application auth client consumer crypt cryptographic decryption
    deploy developer encryption fernet hmac jwt license master private secret secure server service
    session shared signing ssh ssl storage stream subscription symmetric tls totp webhook"""
)
# These words, and endings of compound words, such as PGPASSWORD.
_ENDINGS: Final = ("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey")
_SECRET_PHRASE_KINDS: Final = _words("pass recovery secret seed")
_SECRET_TOKEN_KINDS: Final = _words("access api auth bearer bot deploy id oauth personal refresh")
_LIKELY: Final = _words(
    """auth authorization bearer cookie cookies credential credentials csrftoken dsn jsessionid jwt
    key otp phpsessid pin salt sas seed session sessionid sid sig signature token webhook"""
)
# A name that ends with one of these words describes a secret, and its value is public ...
_IDENTIFYING: Final = _words(
    """alg algorithm alias arn backend digest domain email encoder endpoint engine file filename
    fingerprint format hasher hashing header
    hint host hostname id ident identifier issuer kind label len length method mode name namespace
    path port prefix provider realm region scheme scope size space store thumbprint type uri url
    user username uuid validator vault version"""
)
# ... or may be.
_ABOUT: Final = _IDENTIFYING | _words(
    """account age at audience bits certificate cert class count created curve date day days
    description dir directory duration enabled encoding env environment expiration expire expired
    expires expiry field group hour hours index info last level lifetime limit location login
    manager max min model modified month note number owner parameter pattern period plugin policy
    project prompt protocol reference required role rotated rotation seconds server service source
    state status strategy strength style suffix template tenant time timeout ttl updated usage use
    validity"""
)
_PUBLIC_KEY_KINDS: Final = _words(
    """anon cache foreign host partition pub public publishable site sort verification verify
    verifying"""
)
_PUBLIC: Final = _PUBLIC_KEY_KINDS | _words("ca cert certificate checksum crt etag guid sha")
_PREPOSITIONS: Final = _words("by for from in of on to")
_NOT_PLURAL: Final = _words("address alias pass status access") | _LIKELY


def level_of(name: str, above: Level = Level.UNKNOWN) -> Level:
    """Judge by a field's name whether its value is a secret.

    Args:
        name: The name of the field, in any style: ``api_key``, ``apiKey``, ``API-KEY``.
        above: The level of the enclosing field, for a name that says nothing.
    """
    words = [_singular(each.lower()) for each in _PIECE.findall(name)]
    found, last = None, 0
    for index, word in enumerate(words):
        if (level := _level_of_word(word, words[index - 1] if index else "")) is not None:
            found, last = max(found or level, level), index
    if found is None:
        public = bool(words) and (words[-1] in _ABOUT or not _PUBLIC.isdisjoint(words))
        return Level.PUBLIC if public else above
    if words[last] in ("key", "token") and not _PUBLIC_KEY_KINDS.isdisjoint(words[:last]):
        return Level.PUBLIC
    # The last word names the thing: an auth_method is a method. But "token of user" is a token.
    rest = words[last + 1 :]
    if rest and _PREPOSITIONS.isdisjoint(rest):
        if rest[-1] in _IDENTIFYING:
            return Level.PUBLIC
        if rest[-1] in _ABOUT:
            return Level.LIKELY
    return max(found, above) if above >= Level.LIKELY else found


def _level_of_word(word: str, before: str) -> Level | None:
    secret = (
        word in _SECRETS
        or word.endswith(_ENDINGS)
        or (word == "key" and before in _SECRET_KEY_KINDS)
        or (word == "token" and before in _SECRET_TOKEN_KINDS)
        or (word in ("phrase", "word") and before in _SECRET_PHRASE_KINDS)
    )
    if secret:
        return Level.SECRET
    return Level.LIKELY if word in _LIKELY or word.endswith("token") else None


def _singular(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if plural and word not in _NOT_PLURAL else word
