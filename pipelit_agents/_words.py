"""Distinguish words from keys, codes and addresses, for messages that must not repeat a secret."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["has_code_form", "is_wordy", "masked"]

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


def masked(text: str) -> str:
    """Return the text of a foreign error, with everything masked that may be part of a key."""

    def word_or_mask(word: re.Match[str]) -> str:
        return word[0] if len(word[0]) < _MIN_MASKED_LENGTH or is_wordy(word[0]) else "…"

    return re.sub(r"[^\s\"'`(){}\[\]<>,;:!?/=|]+", word_or_mask, text[:_MAX_TEXT_LENGTH])
