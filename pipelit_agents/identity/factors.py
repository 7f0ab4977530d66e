"""How people type codes, and what tells one second factor of a person from the next.

Agents' codes are exact. People copy theirs from an app that shows "123 456", from paper, or from a
page in another script, so all the spellings of a code are made one before anything looks at it.
"""

from __future__ import annotations

import hmac
import re
import unicodedata
from typing import Final, Literal

__all__ = ["factor_id", "read_code"]

_PLAIN: Final = re.compile(r"[0-9]{6}\Z")
_RECOVERY: Final = re.compile(r"[A-Z2-7]{16}\Z")
# More than anybody types, and little enough to look at each character.
_LONGEST: Final = 128
_MINUS: Final = "\u2212"

CodeForm = Literal["plain", "recovery", ""]


def read_code(typed: object) -> tuple[CodeForm, str]:
    """Read a code as a person typed or pasted it.

    Spaces of every kind, line ends, dashes and invisible characters are left out; full-width
    characters and the digits of other scripts are read as ASCII; letters may be lower case.

    Args:
        typed: What was given, of any type.

    Returns:
        ``plain`` and six digits, ``recovery`` and four groups of four with dashes, or two empty
        texts where it can't be either.
    """
    if not isinstance(typed, str) or len(typed) > _LONGEST:
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


def factor_id(username: str, secret: bytes) -> str:
    """Return what names a person's present second factor, and nothing about it.

    It is another one after every enrolment, because each has a new secret. It is an HMAC under the
    secret itself (160 random bits), so it stays the same when ``FIELD_ENCRYPTION_KEY`` is replaced
    and nobody without the secret can compute it.
    """
    data = b"pipelit-agents/factor/v1\0" + username.encode()
    return hmac.digest(secret, data, "sha256").hex()[:32]


def _is_between(character: str) -> bool:
    # Cf: zero-width and direction marks that come along when one copies from a page. Pd: dashes.
    return (
        character.isspace()
        or character == _MINUS
        or unicodedata.category(character) in ("Cf", "Pd")
    )
