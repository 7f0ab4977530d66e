"""Texts for people and models: messages that codes are bound to, and durations in words."""

from __future__ import annotations

import json
import math
import re
import shlex
import unicodedata
from collections.abc import Iterable
from typing import Final

__all__ = ["LONGEST_MESSAGE", "bindable", "in_words", "json_line", "typed_paths", "visible_json"]

LONGEST_MESSAGE: Final = 4_000

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): they aren't displayed.
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
# Joiners and variation selectors are needed for Persian, Indic scripts and emoji.
_NEEDED: Final = "\u200c\u200d\ufe00-\ufe0f"
# Shorter waits are written in seconds.
_MAX_SECONDS: Final = 120
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_REFUSED: Final = re.compile(
    rf"(?![{_NEEDED}\t\n])[\x00-\x1f\x7f-\x9f\u2028\u2029\ufdd0-\ufdef\ufffe\uffff{_INVISIBLE}]"
)
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")
_NOT_ASCII: Final = re.compile("[^ -~]")


def bindable(message: object) -> str:
    """Return a text that a code can be bound to, unchanged.

    Nothing is stripped or normalized: a code is valid for exactly this text.

    Args:
        message: 1 to 4,000 characters. Control characters other than newline and tab, characters
            that change the direction of text, and invisible ones other than joiners and variation
            selectors are refused, so that people and models read the same text.

    Raises:
        TypeError: It isn't text.
        ValueError: It is empty, too long, or contains a refused character.
    """
    if not isinstance(message, str):
        raise TypeError(f"message must be text, not {type(message).__name__}")
    # A copy as exact `str`: a subclass, such as LangChain's `message.text`, could run its own code.
    text = "".join((message, ""))
    if not text:
        raise ValueError("message is empty: leave it out, or pass the text that the code is for")
    if len(text) > LONGEST_MESSAGE:
        raise ValueError(
            f"message has {len(text):,} characters, and {LONGEST_MESSAGE:,} are allowed: bind a "
            "summary, or the SHA-256 of the whole text"
        )
    if _SURROGATE.search(text):
        raise ValueError("message has a lone surrogate, which isn't Unicode text: leave it out")
    found = _REFUSED.search(text)
    if found:
        raise ValueError(
            f"message has U+{ord(found[0]):04X} at position {found.start()}, which is invisible or "
            "changes how the text around it is displayed: leave it out"
        )
    return text


def json_line(text: str) -> str:
    """Return text as a JSON string on one line, with all invisible characters escaped.

    Text that isn't in Unicode's form NFC can look like other text, so all of it is escaped.
    """
    quoted = json.dumps(text, ensure_ascii=not unicodedata.is_normalized("NFC", text))
    return visible_json(quoted)


def visible_json(text: str) -> str:
    """Return JSON of the same value, with all invisible characters escaped."""
    return _NOT_ASCII.sub(_escaped_if_invisible, text)


def typed_paths(paths: Iterable[object]) -> str:
    """Return paths as they are typed in a shell, for a command that is copied."""
    # A path that begins with a dash would be read as an option.
    return shlex.join(f"./{path}" if str(path).startswith("-") else str(path) for path in paths)


def in_words(seconds: float) -> str:
    """Return a wait in words, rounded up, so that nobody tries again too early.

    Args:
        seconds: The wait. Below two minutes it is written in seconds, then in minutes, in hours and
            minutes, and in days and hours.
    """
    whole = math.ceil(seconds)
    if whole < _MAX_SECONDS:
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


def _escaped_if_invisible(found: re.Match[str]) -> str:
    character = found[0]
    is_visible = character.isprintable() and not _HIDDEN.match(character)
    return character if is_visible else json.dumps(character)[1:-1]
