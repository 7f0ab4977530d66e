"""Normalize the codes that people type, before they are verified.

Agents' codes are exact. People copy theirs from an app that shows "123 456", from paper, or from a
page in another script, so all spellings of a code are normalized before it is used.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Literal

__all__ = ["read_code"]

_PLAIN: Final = re.compile(r"[0-9]{6}\Z")
_RECOVERY: Final = re.compile(r"[A-Z2-7]{16}\Z")
# More characters than anybody types, and few enough to normalize each one.
_MAX_TYPED: Final = 128
_MINUS: Final = "\u2212"

CodeForm = Literal["plain", "recovery", ""]


def read_code(typed: object) -> tuple[CodeForm, str]:
    """Normalize a code that a person typed or pasted.

    Spaces of every kind, line ends, dashes and invisible characters are removed. Full-width
    characters and the digits of other scripts are converted to ASCII. Letters may be lower case.

    Args:
        typed: The input, of any type.

    Returns:
        ``plain`` and six digits, ``recovery`` and four groups of four with dashes, or two empty
        strings if it can be neither.
    """
    if not isinstance(typed, str) or len(typed) > _MAX_TYPED:
        return "", ""
    kept = []
    for character in unicodedata.normalize("NFKC", typed):
        digit = unicodedata.decimal(character, None)
        if digit is not None:
            kept.append(str(digit))
        elif not _is_between(character):
            kept.append(character)
    code = "".join(kept)
    if not code.isascii():
        return "", ""
    if _PLAIN.match(code):
        return "plain", code
    code = code.upper()
    if _RECOVERY.match(code):
        return "recovery", "-".join(code[start : start + 4] for start in range(0, 16, 4))
    return "", ""


def _is_between(character: str) -> bool:
    # Cf: zero-width and direction marks that are copied along from a page. Pd: dashes.
    return (
        character.isspace()
        or character == _MINUS
        or unicodedata.category(character) in ("Cf", "Pd")
    )
