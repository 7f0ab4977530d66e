"""What a node was given before it ran, which it may give back.

A search for secrets that looked at the input too would tell anyone who writes to a thread whether a
guess is right. So a text that was there before counts as known, and so does each form of it: a node
may quote, cut, join or encode it. Nobody can tell a secret that the node adds from such a copy; but
whoever gave the input has it.
"""

from __future__ import annotations

from typing import Any, Final

from pipelit_agents.credentials.leak_guard.patterns import Patterns
from pipelit_agents.credentials.leak_guard.written import Written, written

__all__ = ["Given"]

# Characters times forms of secrets. What is less is searched whether or not a secret was found in
# what the node gives back: how long a node takes then doesn't tell that either.
_ALWAYS: Final = 20_000_000


class Given:
    """What stood in the input of a node, and of those that it runs in.

    Args:
        outer: What the node was given that this one runs in.
    """

    def __init__(self, outer: Given | None = None) -> None:
        self._outer = outer
        self._parts: list[Written] = []

    def add(self, value: Any) -> Written:
        """Take a value as it is now; what changes it later changes nothing here."""
        found = written(value)
        if found.texts or found.data or found.unknown:
            self._parts.append(found)
        return found

    def known(self, patterns: Patterns) -> set[bytes]:
        """What secrets look like that stood in the input, in the forms that stood there."""
        forms = list(patterns.forms)
        found: set[bytes] = set()
        for part in self._all():
            found |= part.holding(forms)
        return found

    def shows(self, text: str) -> bool:
        """Whether a text stood in it, as it is."""
        form = [text.encode("utf-8", "surrogatepass")]
        return any(part.holding(form) for part in self._all())

    def is_searched_always(self, patterns: Patterns) -> bool:
        """Whether there is so little of it that it needn't wait until it matters."""
        return sum(part.size for part in self._all()) * patterns.count <= _ALWAYS

    def unsearched(self) -> list[Any]:
        """Objects in it that could not be searched, and can't be afterwards."""
        return [each for part in self._all() for each, _ in part.unknown]

    def _all(self) -> list[Written]:
        outer = self._outer._all() if self._outer is not None else []
        return outer + list(self._parts)
