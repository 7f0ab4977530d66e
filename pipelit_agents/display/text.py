"""Text of others in tables and drawings: nothing of it may be invisible or break a document."""

from __future__ import annotations

import unicodedata

from pipelit_agents.exact import visible

__all__ = ["printable", "width_of"]


def printable(text: str) -> str:
    """Return a text in which control, format, unassigned and blank characters are escaped.

    They can't be in XML, can't be seen, or reorder the text around them. Line breaks stay.
    """
    return visible(text, kept="\n")


def width_of(text: str) -> int:
    """Return how many columns a text takes in a font of fixed width."""
    return sum(
        2 if unicodedata.east_asian_width(each) in "WF" else not unicodedata.combining(each)
        for each in text
    )
