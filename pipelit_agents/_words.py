"""Telling words from keys, codes and addresses, for messages that must not repeat a secret."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["has_code_form", "is_wordy", "masked"]

_MOST_DIGITS: Final = 5
_SHORTEST: Final = 6
_LONGEST_TEXT: Final = 300
# A short word; one in capitals; or one or several in lower case, as in clientSecret or baseURL.
_WORDY: Final = re.compile(
    r"[A-Za-z0-9]{1,3}|[A-Za-z]{1,3}[0-9]{1,4}|[A-Z]{1,15}[0-9]{0,2}"
    r"|[A-Za-z][a-z]{2,14}([A-Z][a-z]{2,14})*([A-Z]{2,4})?[0-9]{0,4}"
)
# Recovery codes, and secrets as authenticator apps show them: groups of four in base32.
_GROUPS: Final = re.compile(r"[A-Za-z2-7]{4}([\s-]*[A-Za-z2-7]{4}){3,}")
_TIME: Final = re.compile(
    r"[0-9]{1,5}[smhd]?|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{1,15}(Z|[+-][0-9:]{2,5})?)?"
)


def has_code_form(text: str) -> bool:
    """Whether a text has the form of a recovery code, in any spelling; some words have it too."""
    return _GROUPS.fullmatch(text.strip()) is not None


def is_wordy(text: str) -> bool:
    """Whether a text is made of words, as names are, so that it is no key, code or address."""
    # In lower case and without a digit four words of four letters have that form too.
    plain = text.islower() and not any(character.isdigit() for character in text)
    if has_code_form(text) and not plain:
        return False
    if _TIME.fullmatch(text):
        return True
    parts = [part for part in re.split(r"[/\\_.,:\s-]", text) if part]
    digits = sum(character.isdigit() for character in text)
    return digits <= _MOST_DIGITS and all(map(_WORDY.fullmatch, parts))


def masked(text: str) -> str:
    """The text of somebody else's error, without what may be a key or a part of one."""

    def shown(word: re.Match[str]) -> str:
        return word[0] if len(word[0]) < _SHORTEST or is_wordy(word[0]) else "…"

    return re.sub(r"[^\s\"'`(){}\[\]<>,;:!?/=|]+", shown, text[:_LONGEST_TEXT])
