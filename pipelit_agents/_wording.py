"""Texts for people and models: messages that codes are bound to, and durations in words."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Final

__all__ = ["LONGEST_MESSAGE", "bindable", "in_words", "json_line"]

LONGEST_MESSAGE: Final = 4_000

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): nobody sees them.
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
# Joiners and variation selectors are part of Persian, of Indic scripts and of emoji.
_NEEDED: Final = "\u200c\u200d\ufe00-\ufe0f"
_IN_SECONDS: Final = 120
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_REFUSED: Final = re.compile(
    rf"(?![{_NEEDED}\t\n])[\x00-\x1f\x7f-\x9f\u2028\u2029\ufdd0-\ufdef\ufffe\uffff{_INVISIBLE}]"
)
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")


def bindable(message: object) -> str:
    """Return the text that a code can be bound to, unchanged.

    Nothing is stripped or normalized: a code is good for exactly this text.

    Args:
        message: 1 to 4,000 characters. Control characters other than newline and tab, characters
            that change the direction of text, and invisible ones other than joiners and variation
            selectors are refused, so that people and models read the same words.

    Raises:
        TypeError: It isn't text.
        ValueError: It is empty, too long, or has a character that is refused.
    """
    if not isinstance(message, str):
        raise TypeError(f"message has to be text, not {type(message).__name__}")
    # A subclass, as LangChain's `message.text` is one, must not run code of its own later.
    text = "".join((message, ""))
    if not text:
        raise ValueError("message is empty: leave it out, or give the words that the code is for")
    if len(text) > LONGEST_MESSAGE:
        raise ValueError(
            f"message has {len(text):,} characters, and {LONGEST_MESSAGE:,} are the most: bind a "
            "summary, or the SHA-256 of the whole"
        )
    if _SURROGATE.search(text):
        raise ValueError("message has a lone surrogate, which isn't Unicode text: leave it out")
    found = _REFUSED.search(text)
    if found:
        raise ValueError(
            f"message has U+{ord(found[0]):04X} at position {found.start()}, which can't be seen "
            "or changes how the text around it reads: leave it out"
        )
    return text


def json_line(text: str) -> str:
    """Return text as a JSON string on one line, with everything escaped that can't be seen.

    Text that looks like other text, because it isn't in Unicode's form NFC, is escaped as a whole.
    """
    quoted = json.dumps(text, ensure_ascii=not unicodedata.is_normalized("NFC", text))
    return "".join(_escaped(c) if _HIDDEN.match(c) or not c.isprintable() else c for c in quoted)


def in_words(seconds: float) -> str:
    """Return a wait in words, rounded up, so that nobody comes back too early.

    Args:
        seconds: How long. Below two minutes the seconds are said, then minutes, hours and minutes,
            and days and hours.
    """
    whole = math.ceil(seconds)
    if whole < _IN_SECONDS:
        return f"{max(whole, 0)} s"
    minutes = -(-whole // 60)
    if minutes < 60:
        return _counted(minutes, "minute")
    if minutes < 24 * 60:
        return _both(*divmod(minutes, 60), "hour", "minute")
    return _both(*divmod(-(-minutes // 60), 24), "day", "hour")


def _both(large: int, small: int, unit: str, smaller: str) -> str:
    first = _counted(large, unit)
    return f"{first} and {_counted(small, smaller)}" if small else first


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]
