"""Text of others in tables and drawings: nothing of it may be invisible or break a document."""

from __future__ import annotations

import unicodedata

__all__ = ["printable", "width_of"]


def printable(text: str) -> str:
    """Return a text in which control, format and unassigned characters are escaped.

    They can't be in XML, can't be seen, or reorder the text around them. Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def width_of(text: str) -> int:
    """Return how many columns a text takes in a font of fixed width."""
    return sum(
        2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each)
        for each in text
    )
