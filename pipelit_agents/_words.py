"""Distinguish words from keys, codes and addresses, for messages that must not repeat a secret.

People and models sometimes pass a secret where the name of an account or a credential belongs. An
error that repeats it carries it into logs and checkpoints, and the audit keeps it for years. So:

- A name that was found is displayed and recorded as it is.
- A name that was refused, or that nobody has, is displayed with ``quoted`` and recorded with
  ``recordable``, which keep ordinary names and leave out what may be a secret.
- A name that has the form of a secret is never stored: ``has_secret_form``.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = [
    "PLAIN_NAME",
    "TOKEN",
    "WITHHELD",
    "has_code_form",
    "has_secret_form",
    "is_wordy",
    "masked",
    "may_be_secret",
    "quoted",
    "recordable",
]

# In attributes of errors and in the audit, in place of a name. No name contains a parenthesis.
WITHHELD: Final = "(may be a secret)"
# The prefixes of well-known kinds of keys. Names may begin so too: `sk-team`.
TOKEN: Final = re.compile(
    r"(?:sk-|[sr]k_(?:live|test)_|whsec_|gh[opusr]_|github_pat_|glpat-|xox[a-z]-|xapp-|npm_|pypi-"
    r"|hf_|gsk_|xai-|pplx-|r8_|AIza|ya29\.|1//0|SG\.|key-|dop_v1_|shp(?:at|ss)_|ATATT|lin_api_|ntn_"
    r"|dckr_pat_|hvs\.|AGE-SECRET-KEY-|plit_|eyJ[\w-]+\.eyJ)[\w.+/=-]{8,}"
)

_MAX_DIGITS: Final = 5
_MIN_MASKED_LENGTH: Final = 6
_MAX_TEXT_LENGTH: Final = 300
# A short word, a word in capitals, or words in lower or camel case: clientSecret, baseURL.
_WORDY: Final = re.compile(
    r"[A-Za-z0-9]{1,3}|[A-Za-z]{1,3}[0-9]{1,4}|[A-Z]{1,15}[0-9]{0,2}"
    r"|[A-Za-z][a-z]{2,14}([A-Z][a-z]{2,14})*([A-Z]{2,4})?[0-9]{0,4}"
)
# Recovery codes, and secrets as authenticator apps display them: groups of four in base32.
_CODE_GROUPS: Final = re.compile(r"[A-Za-z2-7]{4}([\s-]*[A-Za-z2-7]{4}){3,}")
# A run of base64 that has all three kinds of characters.
_GENERATED: Final = re.compile(
    r"(?<![\w-])(?=[A-Za-z_-]*[0-9])(?=[0-9A-Z_-]*[a-z])(?=[0-9a-z_-]*[A-Z])[A-Za-z0-9_-]{20,}"
)
# In base32 digits are anywhere, and not only at the end of a word.
_DIGIT_WITHIN: Final = re.compile(r"[2-7][\s-]*[A-Za-z]")
# Most names of accounts and credentials: lower-case words with few digits. Of such a name, each
# question below has the answer no. It is too short for a code, or has a character that no code has;
# it has no more digits than words have, no capital letter and no suffix; and each part is a word.
# Every verification asks about several names, so nothing is tried twice (possessive quantifiers).
PLAIN_NAME: Final = re.compile(
    r"(?=.{1,15}\Z|[a-z0-9-]*+[_.])(?!(?:[a-z_.-]*+[0-9]){6})"
    r"(?:[a-z]{1,15}+[0-9]{0,4}+|[a-z0-9]{1,3}+)"
    r"(?:[_.-](?:[a-z]{1,15}+[0-9]{0,4}+|[a-z0-9]{1,3}+))*+\Z(?<!_[0-9a-f]{8})"
)
# What this library and many others add to a name: eight hexadecimal digits, a date.
_SUFFIX: Final = re.compile(r"_(?=[0-9]*[a-f])[0-9a-f]{8}\Z")
_DATE: Final = re.compile(r"(?<![0-9])20[0-9]{2}([-_.])[0-9]{2}\1[0-9]{2}(?![0-9])")
_MAX_NAME_LENGTH: Final = 150
_TIME: Final = re.compile(
    r"[0-9]{1,5}[smhd]?|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{1,15}(Z|[+-][0-9:]{2,5})?)?"
)


def has_code_form(text: str) -> bool:
    """Return whether a text has the form of a recovery code; some words have that form too."""
    return _CODE_GROUPS.fullmatch(text.strip()) is not None


def is_wordy(text: str) -> bool:
    """Return whether a text consists of words, like a name, and isn't a key, code or address."""
    # Four words of four lower-case letters have the form of a recovery code too.
    plain = text.islower() and not any(character.isdigit() for character in text)
    if has_code_form(text) and not plain:
        return False
    if _TIME.fullmatch(text):
        return True
    parts = [part for part in re.split(r"[/\\_.,:\s-]", text) if part]
    digits = sum(character.isdigit() for character in text)
    return digits <= _MAX_DIGITS and all(map(_WORDY.fullmatch, parts))


def has_secret_form(text: str) -> bool:
    """Return whether a text surely is a key or a recovery code, whatever it is passed for."""
    if PLAIN_NAME.match(text):
        return False
    if TOKEN.match(text) and not is_wordy(text):
        return True
    if has_code_form(text) and _DIGIT_WITHIN.search(text):
        return sum(map(str.isdigit, text)) > 1
    return not all(map(is_wordy, _GENERATED.findall(text)))


def may_be_secret(text: str) -> bool:
    """Return whether a text, passed as a name, may be a key, a code or a password instead."""
    if len(text) <= _MAX_NAME_LENGTH and PLAIN_NAME.match(text):
        return False
    # An address may have a password in it.
    if len(text) > _MAX_NAME_LENGTH or "://" in text:
        return True
    # The code may be in place of a field, as in `database:CODE`.
    if has_secret_form(text) or any(map(has_code_form, text.split(":"))):
        return True
    plain = _SUFFIX.sub("", text.replace("@", "."))
    if not plain.isascii():
        # Names in any language are words.
        plain = "".join("x" if c.isalpha() and not c.isascii() else c for c in plain)
    return not is_wordy(plain) and not is_wordy(_DATE.sub("", plain))


def quoted(name: object) -> str:
    """Return a name that was refused or not found, for a message: in quotes, if it is ordinary."""
    if not isinstance(name, str):
        return f"<{type(name).__name__}>"
    # An exact copy: a subclass could run its own code.
    text = str.__str__(name)
    if may_be_secret(text):
        return "(not repeated, because it may be a secret)"
    return f"{text!r:.80}"


def recordable(name: object) -> str:
    """Return a name that was refused or not found, for the audit and for attributes of errors."""
    if not isinstance(name, str):
        return f"<{type(name).__name__}>"
    text = str.__str__(name)
    return WITHHELD if may_be_secret(text) else text


def masked(text: str) -> str:
    """Return the text of a foreign error, with everything masked that may be part of a key."""

    def word_or_mask(word: re.Match[str]) -> str:
        return word[0] if len(word[0]) < _MIN_MASKED_LENGTH or is_wordy(word[0]) else "…"

    return re.sub(r"[^\s\"'`(){}\[\]<>,;:!?/=|]+", word_or_mask, text[:_MAX_TEXT_LENGTH])
