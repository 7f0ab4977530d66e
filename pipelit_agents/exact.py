"""Display a value that a person approves: exactly, with everything escaped that could mislead.

The requester chooses the value, and may be a model that follows foreign instructions. So the value
must not control the terminal, hide a part of itself, change the order in which it is read, or pass
one letter off as another.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["exact_json", "exact_line", "unpadded", "visible", "warnings"]

# Characters of JSON. What is longer isn't indented: of a deep value, the requester could make a
# text that is mostly indentation, and so long that nobody could display it.
_MAX_INDENTED: Final = 50_000
# Runs of characters that need a closer look. All others are what they look like.
_UNUSUAL: Final = re.compile(r"[^ -~]+")

# Printable by Python's rules, but a terminal draws nothing.
_BLANK: Final = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\ufffc\U0001d159")
_INVISIBLE_MARKS: Final = re.compile(
    "[\u034f\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
# Letters and digits that are written from right to left, and so reorder their neighbours.
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
# Marks that are drawn over or under a character. No language puts more of them on one, and a tower
# of them covers the lines above and below.
_MARKS: Final = ("Mn", "Me")
_MAX_MARKS: Final = 4
# JSON escapes these, and text has them.
_LINE_BREAKS: Final = frozenset("\n\r\t")
_LETTERS: Final = ("L", "M", "N")
_WORD: Final = re.compile(r"[^\W_]+")
# Punctuation, and signs of mathematics and of phonetics: a dot of another kind, a minus, a quote.
_SIGNS: Final = ("P", "Sm", "Sk")
# Characters and words; more are counted.
_MAX_LISTED: Final = 20
_MAX_WORD: Final = 40
# A terminal wraps a line, and then spaces can draw another line of their own. JSON's indentation,
# which is after a line break, stays.
_MANY_SPACES: Final = re.compile(r"(?<=[^ \n])( {16})( +)")


def exact_json(value: object) -> str:
    """Return a value as JSON, in which each character is what it looks like.

    It is indented unless it is very long.

    Escaped are control and format characters, white space other than the space, characters that
    nothing is drawn for, marks that are drawn over an ASCII character and more than four of them on
    another, all that is written from right to left, and what is more than 16 spaces in a row. The
    result is JSON of the same value.
    ``warnings`` names what is left.
    """
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _MAX_INDENTED:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    return _escaped(unpadded(text))


def exact_line(value: object, most: int) -> str:
    """Return the beginning of ``exact_json`` in one line.

    Args:
        value: The value.
        most: The maximum number of characters. If more follow, the last one is an ellipsis.
    """
    # Escapes are only longer, so what follows isn't needed.
    text = _escaped(unpadded(json.dumps(value, ensure_ascii=False)[: most + 1]))
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unpadded(text: str) -> str:
    """Return a text with what is more than 16 spaces in a row escaped, as in JSON."""
    return _MANY_SPACES.sub(lambda found: found[1] + "\\u0020" * len(found[2]), text)


def visible(text: str, *, kept: str = "") -> str:
    """Return a text in which every character is seen, for tables and messages.

    Escaped are control and format characters, white space other than the space, characters that
    nothing is drawn for, and more than four marks on one character. Letters of every language stay,
    also those that are written from right to left: ``exact_json`` is for what a person approves.

    Args:
        text: The text.
        kept: Characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    shown, marks = [], 0
    for each in text:
        marks = marks + 1 if unicodedata.category(each) in _MARKS else 0
        hidden = (
            not each.isprintable()
            or each in _BLANK
            or marks > _MAX_MARKS
            or _INVISIBLE_MARKS.match(each)
        )
        shown.append(ascii(each)[1:-1] if hidden and each not in kept else each)
    return "".join(shown)


def _escaped(text: str) -> str:
    # JSON's own line breaks stay: those of the value are escaped already.
    return _UNUSUAL.sub(
        lambda found: "".join(
            character if plain or character == "\n" else _escape(character)
            for character, plain in _judged(found)
        ),
        text,
    )


def _judged(run: re.Match[str]) -> Iterator[tuple[str, bool]]:
    """Yield each character of an unusual run, and whether it can be displayed as it is."""
    before, marks = run.string[max(0, run.start() - 1) : run.start()], 0
    for character in run[0]:
        marks = marks + 1 if unicodedata.category(character) in _MARKS else 0
        plain = marks <= _MAX_MARKS and _is_plain(character, before)
        yield character, plain
        before = character if plain else ""


def _is_plain(character: str, before: str) -> bool:
    if not character.isprintable() or character in _BLANK or _INVISIBLE_MARKS.match(character):
        return False
    if unicodedata.bidirectional(character) in _RIGHT_TO_LEFT:
        return False
    # A stroke or a ring over an ASCII digit makes another one of it, or of an escape.
    return unicodedata.category(character) not in _MARKS or not before.isascii()


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def warnings(value: object) -> list[str]:
    """Name what could mislead in a value: characters that hide or reorder it, and lookalikes.

    Letters of other alphabets look like ASCII ones: Cyrillic U+0430 is drawn as a Latin a is.

    Returns:
        Sentences for the person, in ASCII where they name a character; empty if all letters,
        digits and punctuation are ASCII, and nothing else had to be escaped.
    """
    texts = list(_texts(value))
    hidden = dict.fromkeys(
        each
        for text in texts
        for run in _UNUSUAL.finditer(text)
        for each, plain in _judged(run)
        if not plain and each not in _LINE_BREAKS
    )
    found = _foreign(" ".join(texts))
    if hidden:
        escaped = _list(list(hidden))
        found.insert(0, f"characters that hide or reorder text are escaped above: {escaped}")
    if any(_MANY_SPACES.search(json.dumps(text)) for text in texts):
        found.append("long runs of spaces are escaped above")
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _foreign(text: str) -> list[str]:
    others = [each for each in dict.fromkeys(text) if not each.isascii()]
    # Wide ones last: they look like no ASCII character, and must not crowd out those that do.
    others.sort(key=lambda each: unicodedata.east_asian_width(each) == "W")
    foreign = [each for each in others if _is_letter(each)]
    signs = [each for each in others if _is_sign(each)]
    words = dict.fromkeys(_WORD.findall(text))
    mixed = [word for word in words if not word.isascii() and len(_alphabets(word)) > 1]
    found = [
        f"{_spelled(word)} mixes letters of {' and '.join(sorted(_alphabets(word)))}"
        for word in mixed[:_MAX_LISTED]
    ]
    if len(mixed) > _MAX_LISTED:
        found.append(f"and {len(mixed) - _MAX_LISTED:,} more words mix alphabets")
    for kind, listed in (("letters and digits", foreign), ("signs", signs)):
        if listed:
            found.append(f"{kind} that aren't ASCII, and may look like others: {_list(listed)}")
    return found


def _list(characters: list[str]) -> str:
    listed = ", ".join(map(_named, characters[:_MAX_LISTED]))
    more = len(characters) - _MAX_LISTED
    return f"{listed}, and {more:,} more" if more > 0 else listed


def _is_letter(character: str) -> bool:
    return unicodedata.category(character).startswith(_LETTERS)


def _is_sign(character: str) -> bool:
    return unicodedata.category(character).startswith(_SIGNS) and _is_plain(character, "x")


def _alphabets(word: str) -> set[str]:
    return {_alphabet(each) for each in set(word) if _is_letter(each) and not each.isdecimal()} - {
        ""
    }


def _alphabet(character: str) -> str:
    if character.isascii():
        return "LATIN"
    # Unicode's names begin with the script: CYRILLIC SMALL LETTER A.
    first = unicodedata.name(character, "").partition(" ")[0]
    # Marks go with any alphabet, and Japanese words have two of these.
    if first in ("COMBINING", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC"):
        return "" if first == "COMBINING" else "EAST ASIAN"
    return first.partition("-")[0]


def _named(character: str) -> str:
    name = unicodedata.name(character, "without a name")
    shown = f"{character} " if _is_plain(character, "x") else ""
    return f"{shown}U+{ord(character):04X} {name}"


def _spelled(word: str) -> str:
    cut = word if len(word) <= _MAX_WORD else f"{word[:_MAX_WORD]}…"
    return f"{exact_json(cut)} (written {json.dumps(word[:_MAX_WORD])})"
