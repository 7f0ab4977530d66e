"""The values that readers yield, with their names and how likely each is a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pipelit_agents.credentials.leak_guard.recognition import Level, Part, is_wordy, level_of

__all__ = ["At", "Found", "Inside", "spelled", "value_at"]

# Of a value that is broken into lines, the first lines that are long enough are searched for.
MIN_LINE: Final = 16
MAX_LINES: Final = 3
# Any document contains one of these characters.
STRUCTURED: Final = re.compile(r"[\s:=<{\[/]")
_MAX_NAME_LENGTH: Final = 60
_NAME: Final = re.compile(r"[A-Za-z_$][\w$. /-]*")


class At(NamedTuple):
    """Where in a credential a text is, and how likely it is a secret there."""

    path: str
    level: Level
    depth: int

    def under(self, name: str, level: Level | None = None) -> At:
        """Return where the value of a name is; a name that may be a value becomes an asterisk."""
        name = name.strip()
        is_name = len(name) <= _MAX_NAME_LENGTH and _NAME.fullmatch(name) and is_wordy(name)
        path = ".".join(each for each in (self.path, name if is_name else "*") if each)
        return At(path, level_of(name, self.level) if level is None else level, self.depth)

    def part(self, value: str) -> Part:
        """Return a value here as a part of the credential."""
        return Part(self.path, value, self.level)


class Inside(NamedTuple):
    """A text that may be a document itself, so that ``parts`` looks into it."""

    at: At
    text: str


Found = Part | Inside


def value_at(at: At, value: str, *spellings: str) -> Iterator[Found]:
    """Yield a value, and the same text once more for ``parts`` to look into.

    Args:
        at: Where it is.
        value: The value.
        spellings: How else the document writes it. These are searched for if the value is.
    """
    yield from spelled(at.part(value), *spellings)
    yield Inside(at, value)


def spelled(part: Part, *spellings: str) -> Iterator[Part]:
    """Yield a part, and its other spellings if it is searched for."""
    yield part
    others = [each for each in spellings if each != part.value]
    if others and part.is_searched():
        yield from (part._replace(value=each, level=Level.CERTAIN) for each in others)
